"""What is measured on captions, one after the other: figures 3, 4 and 5, maps of words, how often heads fire.

The driver `measure_captions` does blocks, resuming, processes and limits; a measure is a function of one caption. A
`Figure` is a sub-verb of `figure`, and a `CaptionFigure` one that measures a model's own captions. To add one, write a
file with a subclass and add its line to FIGURES of scripts/figure.py. Flags are asked of a figure before it runs, so
its file imports torch and the like inside functions: then a help takes no seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llava_hh.command_line.parser import Template
from llava_hh.files.files import write_json
from llava_hh.files.memory import smallest_part
from llava_hh.files.progress import announce
from llava_hh.runs.blocks import Run
from llava_hh.runs.run import processes, provenance, start_run
from llava_hh.runs.settings import CaptionedSettings

if TYPE_CHECKING:
    from llava_hh.attribution.captions import TeacherForced
    from llava_hh.heads import Head


@dataclass(frozen=True)
class Measured:
    """What was measured on one caption.

    rows: JSON-ready, any number of them; arrays: joined over captions along their first dimension, each of any length;
    example: arrays that are kept of the first caption alone; size: into how small parts memory made it cut the work.
    """

    rows: list[dict]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    example: dict[str, np.ndarray] = field(default_factory=dict)
    size: int | None = None


@dataclass(frozen=True)
class Found:
    """What was measured on all captions, in their order; `example` is of the first of them."""

    rows: list[dict]
    arrays: dict[str, np.ndarray]
    example: dict[str, np.ndarray]


def measure_captions(
    run: Run,
    entries: Sequence[dict],
    batch_size: int,
    label: str,
    image_of: Callable[[dict], Path],
    measure: Callable[[dict], Measured | dict],
) -> None:
    """Measure each caption that no finished block has, and keep all that is found in the run's blocks.

    Args:
        batch_size: captions to a block; they are measured one by one.
        label: of the progress bar.
        image_of: the image file of a caption, whose content the blocks are held to.
        measure: of one caption; a dict is its only row.
    """
    import torch

    for number, block in run.blocks(entries, batch_size, label, image_of):
        with torch.no_grad():
            results = [measure(entry) for entry in block]
        found = [Measured([each]) if isinstance(each, dict) else each for each in results]
        names = found[0].arrays
        run.finish_block(
            number,
            block,
            [row for each in found for row in each.rows],
            {name: np.concatenate([each.arrays[name] for each in found]) for name in names},
            sub_batch=smallest_part([each.size for each in found]),
            of_block=found[0].example,
            rows_of=[len(each.rows) for each in found],
            entries_of={name: [len(each.arrays[name]) for each in found] for name in names},
        )


def found_in(run: Run) -> Found:
    """What `measure_captions` kept, of all captions that were asked for."""
    of_block = set(next(run.finished_blocks()).get("of_block", ()))
    parts = list(run.finished_arrays())
    names = [name for name in (parts[0] if parts else ()) if name not in of_block]
    return Found(
        run.finished_rows(),
        {name: np.concatenate([part[name] for part in parts]) for name in names},
        {name: array for name, array in parts[0].items() if name in of_block} if parts else {},
    )


class Figure:
    """A sub-verb of `figure`: its flags, its work, what it prints and draws. The docstring is its help.

    Attributes:
        name: of its result file NAME.json and its picture.
        paper: the name in `figures.paper` of the values that --paper-values puts beside ours; None if there are none.
        profile: templates of its own flags by their names, which a profile fills; --out has one where it is not named.
        example: of its flags.
        options: its flags by their names; set before anything but `add_flags` is called.

    A finished figure is shown without `run`, so `lines`, `draw` and `files` go by the result and the flags alone.
    """

    name: ClassVar[str]
    paper: ClassVar[str | None] = None
    profile: ClassVar[Mapping[str, Template]] = {}
    example: ClassVar[str] = "--profile mini_quick"
    options: Mapping[str, Any]

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add flags of its own by `add`, the `add_argument` of a parser."""

    def run(self, out: Path, options: Mapping[str, Any]) -> dict | None:
        """Work, and write NAME.json into the folder `out`; returns its content, None if it is not this process's."""
        raise NotImplementedError

    def lines(self, result: dict) -> Sequence[str]:
        """What is printed of the result."""
        return ()

    def draw(self, source: Path, out: Path) -> None:
        """Draw the result file as `out`.png and `out`.pdf; a figure that does not overwrite this has no picture."""

    def of_paper(self, values: Any) -> Any:
        """Those of the paper's values that belong to this result."""
        return values

    def write(self, out: Path, content: dict, settings: dict | None) -> dict:
        """Write NAME.json, with the paper's values where they are asked for; returns its content."""
        if self.paper and self.options["paper_values"]:
            from llava_hh.figures import paper

            content = {**content, "paper": self.of_paper(getattr(paper, self.paper))}
        of_run = {**({} if settings is None else {"settings": settings}), "run": provenance()}
        write_json(out / f"{self.name}.json", {**content, **of_run})
        return content


class CaptionFigure(Figure):
    """A figure of what heads do where a model reads its own captions with a hallucination once more.

    Attributes:
        label: of the progress bar.
        top_k, limit: defaults of --top-k and --limit.
        without: what there is not where no caption has a hallucination; None makes that an error.
        teacher, entries, out: the captions, their model and the result folder, once it runs.
    """

    label: ClassVar[str]
    top_k: ClassVar[int] = 20
    limit: ClassVar[int] = 100
    without: ClassVar[str | None] = None
    teacher: "TeacherForced"
    entries: list[dict]
    out: Path

    def prepare(self) -> None:
        """See what would stop the run before any work, and load what `measure` needs."""

    def settings(self, captioned: dict[str, Any]) -> CaptionedSettings:
        """What decides the measurements; `captioned` are the fields of `CaptionedSettings`."""
        return CaptionedSettings(**captioned)

    def measure(self, entry: dict) -> Measured | dict:
        """What is found on one caption."""
        raise NotImplementedError

    def summarise(self, found: Found) -> dict:
        """The content of the result file."""
        raise NotImplementedError

    def also_said(self) -> dict:
        """What the result file's settings say beside those that decide the measurements."""
        return {}

    def heads(self, key: str = "hal_heads") -> "list[Head]":
        """The first --top-k heads of a list of the file --heads.

        Raises:
            ValueError, IndexError: as `heads_of_list`.
        """
        from llava_hh.decoding.head_lists import heads_of_list

        lvlm, given = self.teacher.lvlm, self.options
        return heads_of_list(given["heads"], lvlm, given["top_k"], key, given["foreign_heads"])

    def run(self, out: Path, options: Mapping[str, Any]) -> dict | None:
        from llava_hh.attribution.captions import TeacherForced, hallucinating_captions, refuse_other_model

        self.options, captions, limit = options, options["captions"], options["limit"]
        refuse_other_model(captions, options["model"])
        every = hallucinating_captions(captions, allow_none=self.without is not None)
        if not every:
            if processes().is_main:
                print(f"{captions}: no caption with a hallucinated object, so there are {self.without}")
            return None
        self.entries = every[:limit]
        self.teacher = TeacherForced(options["model"], options["image_folder"])
        self.prepare()
        self.out, size = out, options["batch_size"]
        settings = self.settings(self.teacher.fields(every, size, limit))
        announce(f"{self.label}: {len(self.entries)} captions, {options['model']}, into {out}")
        with start_run(out, settings, [entry["image_id"] for entry in self.entries]) as run:
            measure_captions(run, self.entries, size, self.label, self.teacher.image_of, self.measure)
            if not processes().is_main:
                return None
            return self.write(out, self.summarise(found_in(run)), {**settings.record(), **self.also_said()})
