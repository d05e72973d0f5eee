"""The one harness: methods on the same images, prompt and model, by a task (captions and CHAIR, POPE, reference loss).

Greedy decoding is always among the methods, as the reference. Every method is tried out before any work; one that the
model cannot have is left out, and the result says why. A checkpoint is loaded once, and freed when the next one comes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from llava_hh.decoding.groups import make_members
from llava_hh.decoding.making import Material, Member
from llava_hh.decoding.method import CannotDecode, Greedy, Method, Unavailable
from llava_hh.decoding.reading import check_lists, read_methods
from llava_hh.experiments.captioning import Evaluation, open_evaluation, open_own_images
from llava_hh.experiments.compared import Compared
from llava_hh.files.files import write_json
from llava_hh.files.progress import say
from llava_hh.models.checkpoint import model_type_of
from llava_hh.models.lvlm import load_lvlm, refuse_unloadable, release
from llava_hh.runs.run import begun_run, processes
from llava_hh.runs.settings import Settings

OPTIONS = ("dataset", "limit", "seed", "prompt", "max_new_tokens", "batch_size")
DATA_SET_OR_OWN = ([True, True, False, False], [False, False, True, True])  # which arguments of images are given


class Task(Protocol):
    """The measure by which methods are compared."""

    def settings(self, evaluation: Evaluation, method: Method) -> Mapping[str, Settings]:
        """The settings of each run of a method, by its folder below the method's folder ("": that folder itself)."""

    def try_out(self, evaluation: Evaluation, method: Method) -> None:
        """Check on one token that `run` will work.

        Raises:
            CannotDecode: the method does not work with the model or the task.
            ValueError, OSError: any other error that would stop `run`.
        """

    def run(self, evaluation: Evaluation, method: Method, out: Path) -> Any:
        """All results of a method, its rows in the folder `out`."""

    def summarise(self, compared: Compared) -> dict:
        """The content of the task's result file; the caller writes it."""


def run_task(evaluation: Evaluation, members: Sequence[Member], task: Task, out: Path) -> dict:
    """Run every method of a comparison, each in a folder of its name in `out`.

    Args:
        members: the first is greedy decoding.
    Returns: the content of the task's result file; empty in all processes but the first.
    Raises:
        ValueError: all methods but greedy decoding were left out.
    """
    left_out: dict[str, str] = {}
    results: dict[str, Any] = {}
    described: dict[str, dict] = {}
    record, loaded = evaluation.record(Greedy()), evaluation
    checkpoints = list(dict.fromkeys(member.method.checkpoint for member in members))
    for checkpoint in filter(None, checkpoints):
        refuse_unloadable(checkpoint)
        if (kind := model_type_of(checkpoint)) != (expected := model_type_of(evaluation.lvlm.path)):
            problem = f"{checkpoint} is asked as {kind}, {evaluation.lvlm.path} as {expected}"
            raise ValueError(f"--methods tfhh: {problem}; compare models that are asked alike")
    for member in members:
        if member.method.checkpoint is not None:
            _refuse_begun(task, evaluation, member, out, unknown=("model",))
    for checkpoint in sorted(checkpoints, key=lambda path: path is not None):  # that of the comparison first
        if checkpoint is not None:
            release(loaded.lvlm)
            loaded = evaluation.with_model(load_lvlm(checkpoint))
        of_model = [member for member in members if member.method.checkpoint == checkpoint]
        kept = [member for member in of_model if _can_run(loaded, member, task, out, left_out)]
        if left_out and len(kept) == len(checkpoints) == 1:
            reasons = "; ".join(f"{name}: {why}" for name, why in left_out.items())
            raise ValueError(f"--methods: this model can have none of them: {reasons}")
        for member in kept:
            name, seen = member.method.name, loaded.first(member.limit)
            try:
                results[name] = task.run(seen, member.method, out / name)
            except NotImplementedError as error:  # such as an answer that grows beyond a sliding window
                if not member.spec.is_one_of_all:
                    raise member.spec.error(error) from error
                _leave_out(member, error, left_out)
                continue
            described[name] = seen.settings(member.method).record()
    if not processes().is_main:
        return {}
    ordered = {member.method.name: results[member.method.name] for member in members if member.method.name in results}
    drawn = {"split": evaluation.draw["split"]} if "split" in evaluation.draw else {}
    settings = {**record, **drawn, "methods": described}
    settings |= {"left_out": left_out} if left_out else {}
    return task.summarise(Compared(evaluation, members, ordered, settings, out))


def _refuse_begun(task: Task, evaluation: Evaluation, member: Member, out: Path, unknown: Sequence[str] = ()) -> None:
    for folder, settings in task.settings(evaluation.first(member.limit), member.method).items():
        begun_run(out / member.method.name / folder, settings, unknown)


def _can_run(evaluation: Evaluation, member: Member, task: Task, out: Path, left_out: dict[str, str]) -> bool:
    """Try a method out; if it does not work with the model, `left_out` gets the reason.

    So it does if `all` meant the method, and it cannot be tried out for any other reason, such as a missing file.
    """
    if isinstance(member.method, Unavailable):
        return _leave_out(member, member.method.why, left_out)
    _refuse_begun(task, evaluation, member, out)
    try:
        task.try_out(evaluation.first(member.limit), member.method)
    except (CannotDecode, ValueError, OSError) as error:
        if not (isinstance(error, CannotDecode) or member.spec.is_one_of_all):
            raise
        return _leave_out(member, error, left_out)
    return True


def _leave_out(member: Member, why: object, left_out: dict[str, str]) -> bool:
    left_out[member.method.label] = str(why)
    if processes().is_main:
        say(f"left out: {member.spec}: {why}")
    return False


def with_own_labels(members: Sequence[Member]) -> list[Member]:
    """The methods with different labels: where several share a label, their text follows it."""
    labels = [member.method.label for member in members if member.has_row]
    named = [
        member
        if labels.count(member.method.label) <= 1 or "label" in member.spec.fields or member.method.name == "greedy"
        else replace(member, method=replace(member.method, label=f"{member.method.label} ({member.spec})"))
        for member in members
    ]
    seen = {member.group for member in members if member.group and not member.has_row}
    for member in (member for member in named if member.has_row):
        label = member.method.label
        if label in seen:
            raise ValueError(f"method {str(member.spec)!r}: another row is called {label!r}; name another")
        seen.add(label)
    return named


def evaluate(
    methods: Sequence[str],
    model: str | Path,
    image_folder: str | Path | None = None,
    annotations: str | Path | None = None,
    out: str | Path = "",
    split: str | None = None,
    heads: str | Path | None = None,
    allow_foreign: bool = False,
    images: Sequence[str | Path] | str | Path | None = None,
    objects: str | Path | Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> dict:
    """Compare methods on the same images by CHAIR, as the verb `evaluate` does; a folder per method, and summary.json.

    The images are those of a data set (`image_folder`, `annotations`, `split`), or one's own (`images`, `objects`).

    Args:
        methods: such as ["adhh:top_k=2,threshold=0.95", "random:draws=5,of=adhh"] (`llava_hh.decoding.grammar`);
            greedy decoding is always among them.
        model, image_folder, annotations, out: paths; a run that was begun in `out` is continued.
        images: files, and folders of them; objects: what is in each, by the file's name, or a file of JSON lines with
            `image_id` and `objects`.
        heads: the head list of methods that name none; allow_foreign: whether it may be of another model.
        split: whose images are drawn, val2014 by default.
        options: dataset, limit, seed, prompt, max_new_tokens, batch_size, which
            `llava_hh.experiments.captioning.open_evaluation` explains; the first two, like `split`, are a data set's,
            and `seed` is also that of random heads.
    Returns: the content of summary.json: `methods` by folder, with metrics (fractions; means a caption) and intervals.
    Raises:
        ValueError, IndexError, OSError: an argument, a file or a head that does not fit; names it.
    """
    from llava_hh.experiments.chair import CaptionTask

    if "truth" in options:
        raise TypeError("evaluate() takes what is in images as objects={name: [...]}, not as truth")
    if unknown := sorted(options.keys() - OPTIONS):
        raise TypeError(f"evaluate() has no argument {unknown[0]!r}; beside those of its own: {', '.join(OPTIONS)}")
    if not isinstance(model, str | Path):
        raise TypeError(f"model is a {type(model).__name__}; expected the path or the hub's name of a checkpoint")
    if isinstance(methods, str):
        raise ValueError(f"methods is {methods!r}; expected a list of methods")
    if not str(out):
        raise ValueError("out is missing; expected a folder for the results")
    of_data_set = [image_folder, annotations]
    if (given := [each is not None for each in (*of_data_set, images, objects)]) not in DATA_SET_OR_OWN:
        names = ("image_folder", "annotations", "images", "objects")
        got = ", ".join(name for name, is_given in zip(names, given, strict=True) if is_given) or "none"
        raise ValueError(f"expected image_folder and annotations, or images and objects; got {got}")
    for name in ("limit", "max_new_tokens", "batch_size"):
        if name in options and (type(options[name]) is not int or options[name] < 1):
            raise ValueError(f"{name} is {options[name]!r}; expected a whole number of at least 1")
    specs, folder, head_list = read_methods(methods), Path(out), Path(heads) if heads else None
    check_lists(specs, head_list)
    if images is None:
        drawn = {"split": split or "val2014", "out": folder, **options}
        evaluation = open_evaluation(Path(model), Path(image_folder), Path(annotations), **drawn)
    else:
        if wrong := [*(["split"] if split is not None else []), *sorted({"dataset", "limit"} & options.keys())]:
            raise ValueError(f"{wrong[0]} is of a data set's images; images are all taken, as they are")
        paths = [Path(each) for each in ([images] if isinstance(images, str | Path) else images)]
        said = objects if isinstance(objects, Mapping) else Path(objects)
        asked = {name: value for name, value in options.items() if name != "seed"}
        evaluation = open_own_images(Path(model), paths, folder, said, **asked)
    material = Material(evaluation.lvlm, head_list, allow_foreign, options.get("seed", 42))
    content = run_task(evaluation, with_own_labels(make_members(specs, material)), CaptionTask(), folder)
    if processes().is_main:
        write_json(folder / "summary.json", content)
    return content
