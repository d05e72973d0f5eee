"""An attribution, from scored captions to attribution_result.json and the text about it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from llava_hh.attribution.allpath import AllpathSettings, rank_by_allpath
from llava_hh.attribution.captions import hallucinating_captions, refuse_other_model
from llava_hh.attribution.contrast import matched_objects
from llava_hh.attribution.direct import has_direct_terms
from llava_hh.attribution.labelled import answered_questions, labelled_answers
from llava_hh.attribution.replacement import Mean, Noise, Replacement, Zero
from llava_hh.attribution.run import AttributionSettings, CaptionAttribution, OutputsSettings
from llava_hh.attribution.shortlist import race, screen
from llava_hh.attribution.sources import MEASURED_SOURCES
from llava_hh.attribution.summary import adds_up, counted_words, join_blocks, marks_of, stored_columns, summarise
from llava_hh.attribution.targets import find_targets
from llava_hh.data.coco_shapes import Shapes, load_shapes
from llava_hh.data.rows import existing_file
from llava_hh.files.files import read_json_lines, read_result, sha256, write_json, write_rows, write_tensors
from llava_hh.files.progress import announce, progress, say
from llava_hh.runs.run import processes, provenance, start_run
from llava_hh.runs.settings import digest_of

TARGETS, ABLATIONS = "targets.jsonl", "ablations.safetensors"


@dataclass(frozen=True, kw_only=True)
class Attribution(CaptionAttribution):
    """What is attributed, and how: the flags of these names; `captions`, `targets` or `answers` is given."""

    captions: Path | None
    targets: Path | None
    answers: Sequence[Path] | None
    labels: Sequence[str]
    limit: int | None
    ablation: str
    noise_scale: float
    noise_seed: int
    read_out: str
    match: str | None
    allpath: Path | None
    screen: int | None
    race: int | None
    list_length: int
    out: Path

    def settings(self, every: list[dict]) -> AttributionSettings:
        """What decides the result; `every`: all captions that could be attributed."""
        every = [{name: value for name, value in entry.items() if name != "where"} for entry in every]
        of_noise = {name: getattr(self, name) for name in ("noise_scale", "noise_seed") if self.ablation == "noise"}
        return AttributionSettings(
            **self.fields(every, self.batch_size, self.limit),
            released=self.released,
            ablation=self.ablation,
            screen=self.screen,
            race=self.race,
            read_out=self.read_out if self.screen or self.race else None,
            match=self.match if self.screen else None,
            sources=list(MEASURED_SOURCES) if self.by_source else None,
            renormalise=self.renormalise if self.by_source else None,
            direct=self.direct or None,
            labels=list(self.labels) if self.captions is None else None,
            tokens=self.tokens if self.tokens != "first" else None,
            shapes_sha256=digest_of(self.shapes_of(every)) if self.allpath else None,
            **of_noise,
        )

    def shapes_of(self, entries: list[dict]) -> dict[int, Shapes]:
        """Where the objects of the entries' images are, from the annotations of `allpath`."""
        return load_shapes(self.allpath, [entry["image_id"] for entry in entries])

    def rank_by_allpath(self, entries: list[dict], settings: AttributionSettings) -> dict | None:
        """AllPath's rankings of the heads, measured in a run of their own; None in processes but the first."""
        shared = {field.name: getattr(settings, field.name) for field in fields(AllpathSettings)}
        asked = [entry["image_id"] for entry in entries]
        with start_run(self.out / "allpath", AllpathSettings(**shared), asked) as run:
            return rank_by_allpath(self, entries, self.shapes_of(entries), run, of_answers=bool(self.answers))

    def replacement(self, entries: list[dict], settings: AttributionSettings) -> Replacement:
        """What replaces an ablated output; means and deviations are gathered first, in another run."""
        if self.ablation == "zero":
            return Zero()
        shared = OutputsSettings(**{field.name: getattr(settings, field.name) for field in fields(OutputsSettings)})
        with start_run(self.out / "module_outputs", shared, [entry["image_id"] for entry in entries]) as run:
            outputs = self.gather_outputs(entries, run)
        return Mean(outputs) if self.ablation == "mean" else Noise(outputs, self.noise_scale, self.noise_seed)


def attribute_captions(given: Attribution) -> Path | None:
    """Attribute captions, or go on with it, and write attribution_result.json, targets.jsonl, ablations.safetensors.

    Returns: the first of them; None for a process that is not the first.
    Raises:
        ValueError: captions of another model or without a hallucination, or a folder of another run.
        OSError: a file or folder cannot be read or written.
    """
    if given.captions is not None:
        refuse_other_model(given.captions, given.model)
        source, what = f"--captions {given.captions}", "object words of {} captions"
        every = hallucinating_captions(given.captions)
    elif given.answers is not None:
        for path in given.answers:
            refuse_other_model(path, given.model, "--answers")
        source, what = f"--answers {given.answers[0]}", "times yes or no in {} answers"
        every = answered_questions(given.answers)
    else:
        source, what = f"--targets {given.targets}", "labelled words of {} answers"
        every = labelled_answers(given.targets, given.labels)
    entries, settings = every[: given.limit], given.settings(every)
    if not (given.out / "run.json").is_file():
        refuse_useless(entries, source, given.labels, given.match)  # before hours of work
        if given.allpath and not has_direct_terms(given.lvlm.model):
            raise ValueError("--allpath: a norm follows o_proj in this model: a head has no term of its own")
        if given.allpath and not given.shapes_of(entries):
            raise ValueError(
                f"--allpath {given.allpath}: no instance in any of the {len(entries)} images; of another split?"
            )
        if given.captions is None:
            refuse_broken(given, entries)
    n_words = sum(len(entry["mentions"]) for entry in entries)
    shortlists = {"screen": given.screen, "race": given.race}
    how = f"{given.ablation} ablation" + "".join(f", {name} {n}" for name, n in shortlists.items() if n)
    announce(f"attribution: {n_words} {what.format(len(entries))}, {how}, {given.model}, into {given.out}")
    with start_run(given.out, settings, [entry["image_id"] for entry in entries]) as run:
        replacement, measured = given.replacement(entries, settings), None
        if given.screen or given.race:
            measured = (screen if given.screen else race)(given, entries, replacement, run, settings)
        else:
            given.run_blocks(entries, replacement, run)
        rankings = given.rank_by_allpath(entries, settings) if given.allpath else None
        if not processes().is_main:
            return None
        if measured:
            write_rows(given.out / TARGETS, measured.rows)
            write_tensors(given.out / ABLATIONS, measured.log_probs)
        else:
            run.write_rows(TARGETS)
            join_blocks(run, given.out / ABLATIONS)
        marks = marks_of((row for _, row in read_json_lines(given.out / TARGETS)), given.match)
        length = min(given.list_length, given.race or given.screen or given.list_length)
        is_sum = adds_up(given.ablation, given.read_out, given.renormalise)
        result = summarise(marks, stored_columns(given.out / ABLATIONS), given.read_out, length, is_sum)
        result |= {"shortlist": measured.about} if measured else {}
        result |= {"allpath": rankings} if given.allpath else {}
        if any("image" not in each for each in (rankings or {}).values()):
            say("AllPath: no ranking by the image, whose tokens are no grid of cells or of which no object is named")
        result |= {"direct": None} if given.direct and "direct" not in result else {}
        about = {"ablation": given.ablation, "settings": settings.record(), "run": provenance()}
        about["sha256"] = {name: sha256(given.out / name) for name in (TARGETS, ABLATIONS)}
        write_json(path := given.out / "attribution_result.json", {**result, **about})
    say(said_of(path))
    return path


def refuse_useless(entries: Sequence[dict], source: str, labels: Sequence[str], match: str | None) -> None:
    """Check that there are words of both kinds, and with `match` some of the same object.

    Raises:
        ValueError: there are not; one line that begins with `source`.
    """
    mentions = [mention for entry in entries for mention in entry["mentions"]]
    hallucinated, objects = (np.array([mention[name] for mention in mentions]) for name in ("hallucinated", "node"))
    for label, is_there in zip(labels, (hallucinated.any(), not hallucinated.all()), strict=True):
        if not is_there:
            raise ValueError(f"{source}: no {label} word among {len(mentions)}; more captions or answers are needed")
    if match:
        try:
            matched_objects(hallucinated, objects)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None


def refuse_broken(given: CaptionAttribution, entries: Sequence[dict]) -> None:
    """Check labelled answers before the first is measured: their images, and that the model's tokens spell them.

    Raises:
        ValueError: one that cannot be measured; one line that names where it stands.
    """
    for entry in progress("answers", "answer", entries):
        try:
            existing_file(given.image_of(entry), "an image below --image-folder")
            ids, tokenizer = given.ids_of(entry), given.lvlm.tokenizer
            if max(ids, default=0) >= len(tokenizer):
                raise ValueError(f"token id {max(ids)} is none of this model's {len(tokenizer)}")
            find_targets(tokenizer, ids, entry["caption"], entry["mentions"])
        except (ValueError, OSError) as error:
            raise ValueError(f"{entry['where']}: {error}") from None


def said_of(path: Path) -> str:
    """The printed summary of a result file: its strongest heads, and how far its lists can be trusted."""
    result = read_result(path)
    said = [f"{counted_words(result)}; strongest hallucination heads (95% intervals):"]
    parts = {f"by reading {source}": part for source, part in _by_source(result).items()}
    parts |= {"directly": result["direct"]} if result.get("direct") else {}
    for layer, head in result["hal_heads"][:5]:
        said.append(f"  L{layer}H{head}  {_score(result, layer, head)}")
        said += [f"    {name}: {_score(part, layer, head)}" for name, part in parts.items()]
    if "direct" in result and result["direct"] is None:
        said.append("  no direct effect: in this model a norm follows o_proj, and a head has no term of its own")
    for source, part in _by_source(result).items():
        if result["settings"]["renormalise"] and part["emptied"]:
            said.append(
                f"  {source}: all that {part['emptied']:,} pairs of head and word attend to; their output became 0"
            )
    if "shortlist" in result:
        kind, done, whole = (result["shortlist"][key] for key in ("kind", "exact_evaluations", "of"))
        said.append(f"  {kind}: {done:,} exact evaluations instead of {whole:,}, {whole / done:.1f}x fewer")
    for k, overlap in result.get("stability", {"half_overlap": {}})["half_overlap"].items():
        chance = f"{overlap['chance']:.1%} by chance"
        said.append(f"  top {k}: {overlap['mean']:.0%} in common between halves of the images, {chance}")
    return "\n".join([*said, str(path)])


def _score(scores: dict, layer: int, head: int) -> str:
    low, high = (ends[layer][head] for ends in scores["interval"]["contrastive_influence"])
    return f"{scores['contrastive_influence'][layer][head]:+.4f} ({low:+.4f} to {high:+.4f})"


def _by_source(result: dict) -> dict:
    return result["sources"]["by_source"] if "sources" in result else {}
