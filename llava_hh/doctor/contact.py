"""First contact with a real model: its prompt and some captions, beside what is known of them."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from llava_hh.figures.paper import REWEIGHT
from llava_hh.files.files import read_json_lines
from llava_hh.files.tables import Estimate, Table
from llava_hh.models.lvlm import Batch

AGREES, DIFFERS, OPEN = "agrees", "differs", "cannot be told"
FENCE = "````"
NOTE = """In brackets: 95% bootstrap intervals over the images. A known value agrees if it lies in ours, which few
images make wide; what is known to be lower agrees if the interval does not reach 0. The paper's CHAIR_i, read off its
figure 6, is over 500 images; these are others."""


class Finding(NamedTuple):
    """What was looked at, what is known of it, what was found, and one of AGREES, DIFFERS and OPEN."""

    what: str
    known: str
    found: str
    verdict: str


def parts_of_prompt(batch: Batch) -> tuple[list[int], list[int], list[int]]:
    """The token ids before, of and after the image of a batch of one question about one image."""
    ids = batch.inputs["input_ids"][0].tolist()
    places = batch.image_mask[0].nonzero().flatten().tolist()
    return ids[: places[0]], ids[places[0] : places[-1] + 1], ids[places[-1] + 1 :]


def find_prompt(batch: Batch, known: Mapping) -> list[Finding]:
    """The prompt of one question about one image.

    Args:
        known: token ids `before` and `after` the image, and `image`, the number of its tokens.
    """
    before, image, after = parts_of_prompt(batch)
    counts = [(len(known["before"]), known["image"], len(known["after"])), (len(before), len(image), len(after))]
    sums = [" + ".join(map(str, numbers)) for numbers in counts]
    others = [text for name, ids in (("before", before), ("after", after)) if (text := _first_other(name, ids, known))]
    return [
        Finding("tokens before, of and after the image", *sums, AGREES if sums[0] == sums[1] else DIFFERS),
        Finding("ids of the text", "LLaVA's own", "; ".join(others) or "the same", DIFFERS if others else AGREES),
    ]


def _first_other(name: str, ids: Sequence[int], known: Mapping) -> str:
    """Where ids leave those that are known, in words; empty where they do not."""
    if list(ids) == known[name]:
        return ""
    place = next((n for n, (one, other) in enumerate(zip(ids, known[name], strict=False)) if one != other), None)
    if place is None:
        return f"{name} the image {len(ids)} ids instead of {len(known[name])}"
    return f"{name} the image id {place} is {ids[place]}, not {known[name][place]}"


def find_captions(methods: Mapping[str, Mapping]) -> list[Finding]:
    """CHAIR_i of greedy decoding, of figure 6a at factor 0 and of AD-HH: the methods of a comparison's summary."""
    by_kind = {entry.get("kind"): entry for entry in methods.values()}
    greedy, scaled, adhh = (by_kind[kind] for kind in ("greedy", "scale", "adhh"))
    values = dict(zip(REWEIGHT["after_image"]["alpha"], REWEIGHT["after_image"]["hal_heads"], strict=True))
    return [
        _near("greedy decoding, CHAIR_i", values[1.0], greedy),
        _near("figure 6a at factor 0, CHAIR_i", values[0.0], scaled),
        _lower("figure 6a at factor 0, CHAIR_i minus greedy", scaled),
        _lower("AD-HH, CHAIR_i minus greedy", adhh),
    ]


def _near(what: str, known: float, entry: Mapping) -> Finding:
    ends = entry["interval"]["CHAIRi"]
    verdict = AGREES if ends[0] <= known <= ends[1] else DIFFERS
    if ends[0] == ends[1]:  # all resamples alike: too few captions for an interval
        verdict = OPEN
    found = f"{Estimate(entry['CHAIRi'], ends, 100)} %, n = {entry['n']}"
    return Finding(what, f"{100 * known:.1f} %", found, verdict)


def _lower(what: str, entry: Mapping) -> Finding:
    tested = entry["minus_greedy"]["CHAIRi"]
    low, high = tested["interval"]["difference"]
    verdict = AGREES if high < 0 else DIFFERS if low > 0 else OPEN
    found = f"{Estimate(tested['difference'], (low, high), 100, '+.1f')} points, n = {entry['n']}"
    return Finding(what, "lower", found, verdict)


def lines_of_prompt(batch: Batch) -> list[str]:
    """The ids of the prompt of one question about one image."""
    before, image, after = parts_of_prompt(batch)
    kinds = ", ".join(map(str, dict.fromkeys(image)))
    return [f"before the image: {before}", f"image: {len(image)} times {kinds}", f"after it: {after}"]


def shown_captions(folder: Path, methods: Mapping[str, Mapping], n_images: int) -> list[str]:
    """The first captions of each method of a comparison, to read, and how long a token took."""
    lines = []
    for name, entry in methods.items():
        rows = [row for _, row in islice(read_json_lines(folder / name / "captions.jsonl"), n_images)]
        seconds = entry.get("seconds_per_token")
        lines.append(f"{entry['label']}" + (f", {seconds:.3f} s a token" if seconds else ""))
        lines += [f"  {row['image_id']}: {' '.join(row['text'].split())}" for row in rows]
    return lines


def report_of(
    title: str,
    findings: Sequence[Finding],
    checks: Sequence[str],
    prompt: Sequence[str],
    captions: Sequence[str],
    made: Mapping,
) -> str:
    """All of it as a block of Markdown to paste.

    Args:
        checks: doctor's lines; prompt: its token ids in lines; captions: some to read; made: the process's provenance.
    """
    changed = " with changes" if made["dirty"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    parts = {
        "": [Table(["", "known", "found", "verdict"], findings, " ".join(NOTE.split())).markdown()],
        "made by": [f"commit {made['commit']}{changed}, {made['date']}, {made['machine']}", versions],
        "doctor": checks,
        "prompt": prompt,
        "captions": captions,
    }
    lines = [line for name, own in parts.items() for line in ("", *([f"{name}:"] if name else []), *own)]
    return "\n".join([f"{FENCE}text", title, *lines, FENCE])
