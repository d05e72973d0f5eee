"""How far the attention of hallucination heads moves in instruction tuning (paper, figure 5)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_hh.command_line.numbers import SIZE
from llava_hh.command_line.profiles import training_checkpoints
from llava_hh.experiments.per_caption import Figure, Measured, found_in, measure_captions
from llava_hh.files.progress import announce
from llava_hh.runs.run import make_folder, processes, start_run
from llava_hh.runs.settings import CaptionedSettings

if TYPE_CHECKING:
    from llava_hh.attribution.captions import TeacherForced
    from llava_hh.models.lvlm import Lvlm

BLOCK = 4  # captions that a rerun skips together, and that a process takes at once
GROUPS = {"hal_heads": "hallucination heads", "non_hal_heads": "non-hallucination heads"}


@dataclass(frozen=True)
class JsSettings(CaptionedSettings):
    """What decides the divergences of one checkpoint from `model`, the reference."""

    checkpoint: dict


@dataclass(frozen=True)
class Change:
    """Divergence of a checkpoint from the reference on a caption; the checkpoint is loaded for the first caption.

    teacher: the reference, and how captions become its teacher-forced inputs; the checkpoint gets the same ids.
    """

    teacher: "TeacherForced"
    checkpoint: Path

    @cached_property
    def tuned(self) -> "Lvlm":
        from llava_hh.models.lvlm import load_lvlm

        return load_lvlm(self.checkpoint)

    def measure(self, entry: dict) -> Measured:
        """Arrays `divergence`, (1, layer, head). Both models' attention maps of the caption are in memory."""
        from llava_hh.experiments.measures.js_divergence import divergence_of

        tuned = self.tuned
        batch = self.teacher.prepare(entry)[-1]  # the target words that this finds check that the ids spell the caption
        divergence, size = divergence_of(self.teacher.lvlm, tuned, batch)
        return Measured([{"image_id": entry["image_id"]}], {"divergence": divergence.numpy()[None]}, size=size)


class Divergence(Figure):
    """Change of attention in instruction tuning (figure 5): hallucination heads and others.

    The same captions are teacher-forced through a reference, the model before tuning, and through every checkpoint. Per
    head: the Jensen-Shannon divergence of the two attention rows, averaged over all query positions of prompt and
    caption. Writes js_divergence.json and a picture, and one folder per checkpoint, so that a rerun does only what is
    missing. Two models are in memory at a time, and their attention maps of one caption.
    """

    name, paper = "js_divergence", "JS_DIVERGENCE"
    profile = {"reference": "{reference_model}", "checkpoints": training_checkpoints}

    def add_flags(self, add: Callable[..., Any]) -> None:
        text = "checkpoint of the model before tuning"
        add("--reference", type=Path, metavar="FOLDER", required=True, help=text)
        text = "checkpoints of the tuning; each name ends in its step"
        add("--checkpoints", type=Path, metavar="FOLDER", nargs="+", required=True, help=text)
        text = "head list of the tuned model (attribution_result.json), or: published"
        add("--heads", type=Path, metavar="FILE", required=True, help=text)
        add("--top-k", type=SIZE, default=3, help="heads of each of the two lists")
        text = "captions_eval_results.json of the tuned model's greedy captions"
        add("--captions", type=Path, metavar="FILE", required=True, help=text)
        add("--image-folder", type=Path, metavar="FOLDER", required=True, help="folder of the images")
        text = "use the first so many captions with a hallucination (the paper: 50)"
        add("--limit", type=SIZE, default=100, help=text)

    def run(self, out: Path, options: Mapping[str, Any]) -> dict | None:
        from llava_hh.attribution.captions import TeacherForced, digest, hallucinating_captions
        from llava_hh.experiments.measures.js_divergence import check_same_shape, order_by_step, summarise
        from llava_hh.heads import check_heads, load_heads, published_list
        from llava_hh.models.checkpoint import model_type_of
        from llava_hh.models.loading import Loading
        from llava_hh.runs.identity import identify, identify_checkpoint

        self.options, limit = options, options["limit"]
        checkpoints = order_by_step(options["checkpoints"])
        shape = check_same_shape(options["reference"], list(checkpoints.values()))
        listed = options["heads"]
        if listed == Path("published"):
            listed = published_list(model_type_of(options["reference"]), shape["layers"], shape["heads"])
        heads = {group: load_heads(listed, group, options["top_k"]) for group in GROUPS}
        for own in heads.values():
            check_heads(own, shape["layers"], shape["heads"])
        every = hallucinating_captions(options["captions"])
        entries = every[:limit]
        make_folder(out)

        reference = identify_checkpoint(options["reference"]) | Loading.from_environment().record()
        teacher = TeacherForced(options["reference"], options["image_folder"])
        described, divergences = {}, {}
        announce(f"divergence from {options['reference']}: {len(entries)} captions, {len(checkpoints)} checkpoints")
        for step, folder in checkpoints.items():
            described[step] = identify_checkpoint(folder)
            settings = JsSettings(
                model=reference,
                captions_sha256=digest(every),
                batch_size=BLOCK,
                limit=limit,
                image_folder=str(options["image_folder"]),
                checkpoint=described[step],
            )
            with start_run(out / f"step-{step}", settings, [entry["image_id"] for entry in entries]) as run:
                measure = Change(teacher, folder).measure
                measure_captions(run, entries, BLOCK, folder.name, teacher.image_of, measure)
                if processes().is_main:
                    divergences[step] = found_in(run).arrays["divergence"]
        if not processes().is_main:
            return None
        settings = {
            "reference": reference,
            "captions_sha256": digest(every),
            "limit": limit,
            "checkpoints": described,
            "heads": identify(listed),
            "top_k": options["top_k"],
        }
        return self.write(out, summarise(divergences, heads), settings)

    def lines(self, result: dict) -> list[str]:
        found = [f"Jensen-Shannon divergence, nats, {result['n']} captions (95% intervals):"]
        for entry in result["steps"]:
            cells = []
            for group, label in GROUPS.items():
                low, high = entry[group]["interval"]["mean"]
                cells.append(f"{label} {entry[group]['mean']:.4f} ({low:.4f} to {high:.4f})")
            median = entry["percentiles"]["50"]
            found.append(f"  step {entry['step']}: {'; '.join(cells)}; median head {median:.4f}")
        return found

    def draw(self, source: Path, out: Path) -> None:
        from llava_hh.figures.js_divergence import draw_js_divergence

        draw_js_divergence(source, out)
