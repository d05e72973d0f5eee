"""What mini was built to show beside what it shows, in docs/results.md: made of results/mini/measured*.json."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from llava_hh.files.tables import Estimate, Table

RANDOM = "random heads, as often active"


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"measured{name}.json").read_text(encoding="utf-8"))


def labelled(methods: Mapping[str, dict], label: str) -> dict[str, Any]:
    [method] = [method for method in methods.values() if method.get("label") == label]
    return method


def percent(method: Mapping[str, Any], metric: str) -> str:
    return str(Estimate(method[metric], method["interval"][metric], 100)).replace(" (", "% (")


def points(difference: Mapping[str, Any], name: str = "difference", factor: int = 100, form: str = "+.1f") -> str:
    return Estimate(difference[name], difference["interval"][name], factor, form)


def differences(folder: Path) -> str:
    """AD-HH minus greedy decoding, in a sentence."""
    minus = labelled(read(folder, "")["methods"], "AD-HH")["minus_greedy"]
    return (
        f"Against greedy, paired: CHAIR_i {points(minus['CHAIRi'])} points, recall {points(minus['recall'])}, "
        f"repeated mentions {points(minus['repeated'])}, distinct objects a caption "
        f"{points(minus['distinct'], factor=1, form='+.2f')} (n = {read(folder, '')['methods']['greedy']['n']})."
    )


def aims(folder: Path) -> Table:
    """One row an aim: what was found, and whether that is it."""
    rows = chain(captions(folder), answers(folder), figures(folder), seeds(folder))
    run = read(folder, "")["run"]
    where = f"on {run['date'][:10]}, CPU, {run['machine']}"
    note = f"95% intervals over images, or over seeds where it says so. Measured {where}."
    cells = [[aim, found, "yes" if holds else "**no**"] for aim, found, holds in rows]
    return Table(["aim", "found", "holds"], cells, note)


Row = tuple[str, str, bool]


def captions(folder: Path) -> list[Row]:
    methods = read(folder, "")["methods"]
    greedy, adhh, random = methods["greedy"], labelled(methods, "AD-HH"), methods[RANDOM]
    minus = adhh["minus_greedy"]
    less = -minus["CHAIRi"]["difference"]
    random_less = -random["over_runs"]["CHAIRi"]["minus_reference"]["mean"]
    loss = labelled(read(folder, "_reference_loss")["methods"], "AD-HH")
    return [
        (
            f"greedy, {greedy['n']} val2014 scenes: CHAIR_i of 10 to 25%, recall of at least 80%, repeated below 3%",
            f"{percent(greedy, 'CHAIRi')}, {percent(greedy, 'recall')}, {percent(greedy, 'repeated')}",
            0.1 <= greedy["CHAIRi"] <= 0.25 and greedy["recall"] >= 0.8 and greedy["repeated"] < 0.03,
        ),
        (
            "AD-HH by a rule chosen on train2014: CHAIR_i down by at least 30%",
            f"down by {less / greedy['CHAIRi']:.0%}: {points(minus['CHAIRi'])} points",
            less >= 0.3 * greedy["CHAIRi"],
        ),
        (
            "... recall at most 3 points lower, distinct objects at most 3% fewer, repeated at most 2 points more",
            f"{points(minus['recall'])}, {points(minus['distinct'], factor=1, form='+.2f')} a caption, "
            f"{points(minus['repeated'])}",
            minus["recall"]["difference"] >= -0.03
            and minus["distinct"]["difference"] >= -0.03 * greedy["distinct"]
            and minus["repeated"]["difference"] <= 0.02,
        ),
        (
            "... fluency as before: loss of reference captions, nats per token",
            f"{Estimate(loss['difference'], loss['interval']['difference'], form='+.4f')}, n = {loss['n_images']}",
            loss["interval"]["difference"][0] <= 0,
        ),
        (
            "... random heads that fire as often: less than a third of it",
            f"{percent(random, 'CHAIRi')}, mean of {len(random['draws'])} draws: {-100 * random_less:+.1f} points",
            random_less < less / 3,
        ),
    ]


def answers(folder: Path) -> list[Row]:
    content = read(folder, "_pope")
    judged = content["methods"]["greedy"]["strict"]
    kinds = ("random", "popular", "adversarial")
    n = sum(content["asked"][kind]["questions"] for kind in kinds)
    answered = 1 - sum(judged[kind]["unknown"] for kind in kinds) / len(kinds)
    accuracy = {kind: judged[kind]["accuracy"] for kind in kinds}
    return [
        ("POPE: at least 99% of answers say yes or no", f"{answered:.1%} of {n:,}", answered >= 0.99),
        (
            "POPE, accuracy: random at least 85%, popular and adversarial below it",
            ", ".join(f"{kind} {value:.1%}" for kind, value in accuracy.items()),
            accuracy["random"] >= 0.85 and accuracy["random"] > max(accuracy["popular"], accuracy["adversarial"]),
        ),
    ]


def figures(folder: Path) -> list[Row]:
    inherited = read(folder, "_attention_inheritance")
    content = read(folder, "_js_divergence")
    moved = content["steps"][-1]
    by, more = inherited["difference_same_layers"], moved["difference_same_layers"]
    return [
        (
            "figure 4: hallucination heads resemble the base model's more than others of their layers",
            f"{points(by, 'mean', 1, '+.3f')} in cosine, {inherited['n_captions']} captions",
            by["interval"]["mean"][0] > 0,
        ),
        (
            "figure 5: they move less than others of their layers",
            f"{points(more, 'mean', 1, '+.3f')} nats, {content['n']} captions; "
            f"minus non-hallucination heads: {points(moved['difference'], 'mean', 1, '+.3f')}",
            more["interval"]["mean"][1] < 0,
        ),
    ]


def seeds(folder: Path) -> list[Row]:
    tuned = read(folder, "_targeted_finetune")["methods"]
    hal, random = tuned["tfhh"], tuned["random_heads_tuned"]
    lists, adhh, others = (read(folder, f"_seeds_{name}") for name in ("heads", "adhh", "random"))
    top_k = str(lists["top_k"])
    common = [pair["overlap"][top_k] for pair in lists["pairs"]]
    minus, minus_others = (content["CHAIRi"]["minus_reference"] for content in (adhh, others))
    return [
        (
            f"TF-HH: lower than as many random heads, {len(hal['draws'])} seeds, intervals apart",
            f"{percent(hal, 'CHAIRi')} against {percent(random, 'CHAIRi')}, {hal['n']} images; "
            f"greedy decoding {100 * tuned['greedy']['CHAIRi']:.1f}%",
            hal["interval"]["CHAIRi"][1] < random["interval"]["CHAIRi"][0],
        ),
        (
            f"{adhh['n_runs']} seeds of tuning: more heads in common than by chance",
            f"{', '.join(str(pair['n']) for pair in common)} of the top {top_k}, pair by pair "
            f"({common[0]['chance'] * lists['top_k']:.1f} by chance)",
            all(pair["p"] < 0.05 for pair in common),
        ),
        (
            f"{adhh['n_runs']} seeds of tuning: AD-HH as for the first lowers CHAIR_i, random heads as often do not",
            f"{points(minus, 'mean')} points over seeds, {points(minus_others, 'mean')}; {adhh['n']} scenes",
            minus["interval"]["mean"][1] < 0 <= minus_others["interval"]["mean"][1],
        ),
    ]
