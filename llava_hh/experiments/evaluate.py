"""The one harness: methods on the same images, prompt and model, by a task (captions and CHAIR, POPE, reference loss).

Greedy decoding is always among the methods, as the reference. Every method is tried out before any work; one that the
model cannot have is left out, and the result says why. A checkpoint is loaded once, and freed when the next one comes.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from llava_hh.decoding.groups import make_members
from llava_hh.decoding.making import Material, Member
from llava_hh.decoding.method import CannotDecode, Greedy, Method
from llava_hh.decoding.reading import check_lists, read_methods
from llava_hh.experiments.captioning import Evaluation, open_evaluation
from llava_hh.files.files import write_json
from llava_hh.models.lvlm import Lvlm, load_lvlm, refuse_unloadable, release
from llava_hh.runs.run import processes


class Task(Protocol):
    """What methods are compared by."""

    def try_out(self, evaluation: Evaluation, method: Method, out: Path) -> None:
        """See on one token that `run` can go on.

        Raises:
            CannotDecode: a method that the model, or the task, cannot have.
            ValueError, OSError: anything else that would stop it.
        """

    def foresee(self, evaluation: Evaluation, method: Method, out: Path) -> None:
        """See what can be seen of a method of another checkpoint before that is loaded.

        Raises:
            ValueError: its folder was begun with other settings.
        """

    def run(self, evaluation: Evaluation, method: Method, out: Path) -> Any:
        """All results of a method, its rows in the folder `out`."""

    def report(
        self, evaluation: Evaluation, members: Sequence[Member], results: dict[str, Any], settings: dict, out: Path
    ) -> dict:
        """The content of the task's result file, of the results by method; written by the caller."""


def run_methods(
    evaluation: Evaluation, members: Sequence[Member], task: Task, out: Path, load: Callable[[Path], Lvlm] = load_lvlm
) -> tuple[dict[str, Any], dict[str, dict], dict[str, str]]:
    """Run every method of a comparison.

    Args:
        members: the first is greedy decoding; each has a folder of its name in `out`.
    Returns: results by method; the settings of each; and why methods were left out.
    Raises:
        ValueError: nothing is left to compare with greedy decoding, though something was asked for.
    """
    left_out: dict[str, str] = {}
    results: dict[str, Any] = {}
    settings: dict[str, dict] = {}
    own, model = evaluation, None
    checkpoints = list(dict.fromkeys(member.method.checkpoint for member in members))
    for checkpoint in checkpoints:
        if checkpoint is not None:
            refuse_unloadable(checkpoint)
    for member in members:
        if member.method.checkpoint is not None:
            task.foresee(evaluation.first(member.limit), member.method, out / member.method.name)
    for checkpoint in sorted(checkpoints, key=lambda path: path is not None):  # that of the comparison first
        if checkpoint is not None:
            release(own.lvlm)
            model = load(checkpoint)
            own = evaluation.with_model(model)
        there = [member for member in members if member.method.checkpoint == checkpoint]
        kept = _tried_out(own, there, task, out, left_out)
        if left_out and len(kept) == len(checkpoints) == 1:
            reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
            raise ValueError(f"--methods: this model can have none of them: {reasons}")
        for member in kept:
            name, seen = member.method.name, own.first(member.limit)
            settings[name] = seen.settings(member.method).record()
            results[name] = task.run(seen, member.method, out / name)
    ordered = [member.method.name for member in members if member.method.name in results]
    return {name: results[name] for name in ordered}, settings, left_out


def run_task(evaluation: Evaluation, members: Sequence[Member], task: Task, out: Path) -> dict:
    """Run every method, and the content of the task's result file in the first process."""
    record = evaluation.record(Greedy())
    results, methods, left_out = run_methods(evaluation, members, task, out)
    settings = {**record, "split": evaluation.draw["split"], "methods": methods}
    if left_out:
        settings["left_out"] = left_out
    return task.report(evaluation, members, results, settings, out) if processes().is_main else {}


def _tried_out(
    evaluation: Evaluation, members: Sequence[Member], task: Task, out: Path, left_out: dict[str, str]
) -> list[Member]:
    kept = []
    for member in members:
        try:
            task.try_out(evaluation.first(member.limit), member.method, out / member.method.name)
            kept.append(member)
        except CannotDecode as error:
            left_out[member.method.label] = str(error)
            if processes().is_main:
                print(f"left out: {member.spec}: {error}", flush=True)
    return kept


def with_own_labels(members: Sequence[Member]) -> list[Member]:
    """The methods, each with a label of its own: where several have one, their text follows it."""
    labels = [member.method.label for member in members if member.has_row]
    named = [
        member
        if labels.count(member.method.label) <= 1 or "label" in member.spec.fields or member.method.name == "greedy"
        else replace(member, method=replace(member.method, label=f"{member.method.label} ({member.spec})"))
        for member in members
    ]
    seen = {member.group for member in members if member.group and not member.has_row}
    for member in named:
        if member.has_row and member.method.label in seen:
            raise ValueError(
                f"method {str(member.spec)!r}: another row is called {member.method.label!r}; name another"
            )
        seen |= {member.method.label} if member.has_row else set()
    return named


def evaluate(
    methods: Sequence[str],
    model: str | Path,
    image_folder: str | Path,
    annotations: str | Path,
    out: str | Path,
    split: str = "val2014",
    heads: str | Path | None = None,
    allow_foreign: bool = False,
    **options: Any,
) -> dict:
    """Compare methods on the same images by CHAIR, as the verb `evaluate` does; a folder per method, and summary.json.

    Args:
        methods: such as ["adhh:top_k=2,threshold=0.965", "random:draws=5,of=adhh"] (`llava_hh.decoding.grammar`);
            greedy decoding is always among them.
        model, image_folder, annotations, out: paths; out is gone on with where it was begun.
        heads: the head list of methods that name none; allow_foreign: of another model.
        options: dataset, limit, seed, prompt, max_new_tokens, batch_size, which
            `llava_hh.experiments.captioning.open_evaluation` explains.
    Returns: the content of summary.json: `methods` by folder, with metrics (fractions; means a caption) and intervals.
    Raises:
        ValueError, IndexError, OSError: something that cannot be; names it.
    """
    from llava_hh.experiments.chair import CaptionTask

    if isinstance(methods, str):
        raise ValueError(f"methods is {methods!r}; expected a list of methods")
    for name in ("limit", "max_new_tokens", "batch_size"):
        if name in options and (type(options[name]) is not int or options[name] < 1):
            raise ValueError(f"{name} is {options[name]!r}; expected a whole number of at least 1")
    specs, folder, given = read_methods(methods), Path(out), Path(heads) if heads else None
    check_lists(specs, given)
    paths = (Path(each) for each in (model, image_folder, annotations))
    evaluation = open_evaluation(*paths, split, folder, **options)
    material = Material(evaluation.lvlm, given, allow_foreign, options.get("seed", 42))
    members = with_own_labels(make_members(specs, material))
    content = run_task(evaluation, members, CaptionTask(), folder)
    if processes().is_main:
        write_json(folder / "summary.json", content)
    return content
