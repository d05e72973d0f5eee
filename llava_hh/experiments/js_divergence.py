"""How far the attention of hallucination heads moves in instruction tuning (paper, figure 5)."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from llava_hh.command_line.numbers import SIZE
from llava_hh.command_line.profiles import training_checkpoints
from llava_hh.experiments.per_caption import Figure, MeasureSettings, measured_captions
from llava_hh.files.progress import announce
from llava_hh.files.tables import Estimate
from llava_hh.models.hub_id import checkpoint
from llava_hh.runs.run import make_folder, processes

BLOCK = 4  # captions that a rerun skips together, and that a process takes at once
GROUPS = {"hal_heads": "hallucination heads", "non_hal_heads": "non-hallucination heads"}


class Divergence(Figure):
    """Change of attention in instruction tuning (figure 5): hallucination heads and others.

    The same captions, the first of all as in the released code, are teacher-forced through a reference, the model
    before tuning, and through every checkpoint. Per head: the Jensen-Shannon divergence of the two attention rows,
    averaged over all query positions of prompt and caption. A control compares hallucination heads with the other heads
    of their own layers. Writes js_divergence.json and a picture, and one folder per checkpoint, so that a rerun does
    only what is missing. Two models are in memory at a time, and their attention maps of one caption.
    """

    name, paper, drawn_by = "js_divergence", "JS_DIVERGENCE", "js_divergence"
    profile = {"reference": "{reference_model}", "checkpoints": training_checkpoints}

    def add_flags(self, add: Callable[..., Any]) -> None:
        text = "checkpoint of the model before tuning"
        add("--reference", type=checkpoint, metavar="CHECKPOINT", required=True, help=text)
        text = "checkpoints of the tuning; each name ends in its step"
        add("--checkpoints", type=Path, metavar="FOLDER", nargs="+", required=True, help=text)
        text = "head list of the tuned model (attribution_result.json, with both lists), or: published"
        add("--heads", type=Path, metavar="FILE", required=True, help=text)
        add("--top-k", type=SIZE, default=3, help="heads of each of the two lists")
        text = "captions_eval_results.json of the tuned model's greedy captions"
        add("--captions", type=Path, metavar="FILE", required=True, help=text)
        add("--image-folder", type=Path, metavar="FOLDER", required=True, help="folder of the images")
        add("--limit", type=SIZE, default=50, help="use the first so many captions, hallucinating or not")

    def run(self, out: Path) -> dict | None:
        from llava_hh.attribution.captions import TeacherForced, all_captions, digest
        from llava_hh.experiments.measures import js_divergence as measures
        from llava_hh.heads import check_heads, load_heads, published_list
        from llava_hh.models.checkpoint import load_config
        from llava_hh.models.loading import Loading
        from llava_hh.models.lvlm import load_lvlm
        from llava_hh.runs.identity import identify, identify_checkpoint

        options, limit = self.options, self.options["limit"]
        checkpoints = measures.order_by_step(options["checkpoints"])
        shape = measures.check_same_shape(options["reference"], list(checkpoints.values()))
        listed = options["heads"]
        if listed == Path("published"):
            listed = published_list(load_config(options["reference"]))
        heads = {group: load_heads(listed, group, options["top_k"]) for group in GROUPS}
        for of_group in heads.values():
            check_heads(of_group, shape["layers"], shape["heads"])
        every = all_captions(options["captions"])
        entries = every[:limit]
        make_folder(out)

        reference = identify_checkpoint(options["reference"]) | Loading.from_environment().record()
        teacher = TeacherForced(options["reference"], options["image_folder"])
        described, divergences, sha256 = {}, {}, digest(every)
        images = {"limit": limit, "image_folder": str(options["image_folder"])}
        announce(f"divergence from {options['reference']}: {len(entries)} captions, {len(checkpoints)} checkpoints")
        for step, folder in checkpoints.items():
            described[step] = identify_checkpoint(folder)
            settings = MeasureSettings(reference, sha256, BLOCK, **images, further={"checkpoint": described[step]})
            tuned = cache(partial(load_lvlm, folder))  # loaded for the first caption
            measure = partial(measures.measure_caption, teacher, tuned)
            given = (out / f"step-{step}", settings, entries, folder.name, teacher.image_of, measure)
            with measured_captions(*given) as measured:
                if measured is not None:
                    divergences[step] = measured.arrays["divergence"]
        if not processes().is_main:
            return None
        settings = {"reference": reference, "captions_sha256": sha256, "limit": limit, "checkpoints": described}
        settings |= {"heads": identify(listed), "top_k": options["top_k"]}
        return self.write(out, measures.summarise(divergences, heads), settings)

    def lines(self, result: dict) -> list[str]:
        from llava_hh.experiments.measures.same_layers import compared_heads

        lines = [f"Jensen-Shannon divergence, nats, {result['n']} captions (95% intervals):"]
        n_compared = len(compared_heads(result["hal_heads"], result.get("same_layers", ())))
        labels = GROUPS | {"same_layers": "other heads of the same layers"}
        labels["difference_same_layers"] = f"hallucination heads ({n_compared}) minus these"
        for entry in result["steps"]:
            cells = "; ".join(
                f"{label} {Estimate(entry[group]['mean'], entry[group]['interval']['mean'], form='.4f')}"
                for group, label in labels.items()
                if group in entry  # results of earlier versions have no control
            )
            lines.append(f"  step {entry['step']}: {cells}; median head {entry['percentiles']['50']:.4f}")
        return lines
