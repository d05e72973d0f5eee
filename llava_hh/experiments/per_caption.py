"""Measurements on captions, one by one: figures 3, 4 and 5, maps of words, how often heads fire.

The driver `measured_captions` does blocks, resuming, processes and limits; a measure is a function of one caption. A
`Figure` is a sub-verb of `figure`, and a `CaptionFigure` one that measures a model's own captions. To add one, write a
file with a subclass and add its line to FIGURES of scripts/figure.py. Flags are asked of a figure before it runs, so
its file imports torch and the like inside functions: then a help takes no seconds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llava_hh.command_line.parser import Template
from llava_hh.files.files import write_json
from llava_hh.files.memory import smallest_part
from llava_hh.files.progress import announce, say
from llava_hh.runs.run import make_folder, processes, provenance, start_run
from llava_hh.runs.settings import CaptionedSettings

if TYPE_CHECKING:
    from llava_hh.attribution.captions import TeacherForced
    from llava_hh.heads import Head


@dataclass(frozen=True)
class MeasureSettings(CaptionedSettings):
    """The settings of one kind of measurement on captions; `further` holds the fields of that kind, JSON-ready."""

    further: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        record = super().record()
        further = record.pop("further")
        return record | further


@dataclass(frozen=True)
class Measured:
    """The measurements on one caption, or on all of them in their order.

    rows: JSON-ready, any number of them; arrays: joined over captions along their first dimension, each of any length;
    example: arrays of the first caption alone; size: of the parts of the work, where memory was short.
    """

    rows: list[dict]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    example: dict[str, np.ndarray] = field(default_factory=dict)
    size: int | None = None


@contextmanager
def measured_captions(
    out: Path,
    settings: CaptionedSettings,
    entries: Sequence[dict],
    label: str,
    image_of: Callable[[dict], Path],
    measure: Callable[[dict], Measured | dict],
) -> Iterator[Measured | None]:
    """Measure each caption that is in no finished block, and yield the measurements of all, while the run is held.

    Args:
        label: of the progress bar.
        image_of: the image file of a caption, whose content the blocks are held to.
        measure: of one caption; a dict is its only row.
    Yields: None in all processes but the first.
    """
    import torch

    with start_run(out, settings, [entry["image_id"] for entry in entries]) as run:
        # captions are measured one by one; a block is what a rerun skips
        for number, block in run.blocks(entries, settings.batch_size, label, image_of):
            with torch.no_grad():
                given = [measure(entry) for entry in block]
            parts = [Measured([row]) if isinstance(row, dict) else row for row in given]
            names = parts[0].arrays
            run.finish_block(
                number,
                block,
                [row for part in parts for row in part.rows],
                {name: np.concatenate([part.arrays[name] for part in parts]) for name in names},
                sub_batch=smallest_part([part.size for part in parts]),
                of_block=parts[0].example,
                rows_of=[len(part.rows) for part in parts],
                entries_of={name: [len(part.arrays[name]) for part in parts] for name in names},
            )
        if not processes().is_main:
            yield None
        else:
            whole = set(next(run.finished_blocks()).get("of_block", ()))  # names of arrays that are not joined
            arrays = list(run.finished_arrays()) or [{}]
            joined = {name: np.concatenate([part[name] for part in arrays]) for name in arrays[0] if name not in whole}
            example = {name: array for name, array in arrays[0].items() if name in whole}
            yield Measured(run.finished_rows(), joined, example)


class Figure:
    """A sub-verb of `figure`: its flags, its work, what it prints and draws. The docstring is its help.

    Attributes:
        name: of its result file NAME.json and its picture.
        paper: the name in `figures.paper` of the values that --paper-values puts beside ours; None if there are none.
        profile: templates of its flags by their names, which a profile fills; --out has one where it is not named.
        drawn_by: the module NAME of `llava_hh.figures` whose draw_NAME draws the result; None: there is no picture.
        example: of its flags.
        constants: what decides its result beside its flags; a finished figure of others is made anew.
        options: its flags by their names; set before anything but `add_flags` is called.

    A finished figure is shown without `run`, so `lines` and `draw` go by the result and the flags alone.
    """

    name: ClassVar[str]
    paper: ClassVar[str | None] = None
    profile: ClassVar[Mapping[str, Template]] = {}
    drawn_by: ClassVar[str | None] = None
    example: ClassVar[str] = "--profile mini"
    constants: ClassVar[Sequence[str]] = ()
    options: Mapping[str, Any]

    def add_flags(self, add: Callable[..., Any]) -> None:
        """Add the figure's flags by `add`, the `add_argument` of a parser."""

    def content(self) -> tuple[dict, dict | None]:
        """The content of NAME.json and its settings, for a figure that is made of a finished result."""
        raise NotImplementedError

    def run(self, out: Path) -> dict | None:
        """Work, and write NAME.json into the folder `out`; returns its content, None in all processes but the first."""
        content, settings = self.content()
        if not processes().is_main:
            return None
        make_folder(out)
        return self.write(out, content, settings)

    def lines(self, result: dict) -> Sequence[str]:
        """The lines that are printed of the result."""
        return ()

    def draw(self, source: Path, out: Path) -> None:
        """Draw the result file as `out`.png and `out`.pdf."""
        getattr(import_module(f"llava_hh.figures.{self.drawn_by}"), f"draw_{self.drawn_by}")(source, out)

    def of_paper(self, values: Any) -> Any:
        """The paper's values that belong to this result."""
        return values

    def write(self, out: Path, content: dict, settings: dict | None) -> dict:
        """Write NAME.json, with the paper's values where they are asked for; returns its content."""
        if self.paper and self.options["paper_values"]:
            from llava_hh.figures import paper

            content = {**content, "paper": self.of_paper(getattr(paper, self.paper))}
        held = {} if settings is None else {"settings": settings}
        write_json(out / f"{self.name}.json", {**content, **held, "run": provenance()})
        return content


class CaptionFigure(Figure):
    """A figure of what heads do where a model reads its own captions once more.

    Attributes:
        hallucinating: only the captions with a hallucination.
        label: of the progress bar.
        top_k, limit: defaults of --top-k and --limit.
        without: the name of the missing result where no caption has a hallucination; None makes that an error.
        teacher, entries, out: the captions, their model and the result folder, once it runs.
    """

    label: ClassVar[str]
    hallucinating: ClassVar[bool] = True
    top_k: ClassVar[int] = 20
    limit: ClassVar[int] = 100
    without: ClassVar[str | None] = None
    teacher: "TeacherForced"
    entries: list[dict]
    out: Path

    def prepare(self) -> None:
        """Check before any work what would stop the run, and load what `measure` needs."""

    def further(self) -> dict[str, Any]:
        """The settings beside captions and model that decide the measurements, JSON-ready; run.json holds them."""
        return {}

    def measure(self, entry: dict) -> Measured | dict:
        """Measure one caption."""
        raise NotImplementedError

    def summarise(self, measured: Measured) -> dict:
        """The content of the result file."""
        raise NotImplementedError

    def also_said(self) -> dict:
        """Settings for the result file that do not decide the measurements."""
        return {}

    def heads(self, key: str = "hal_heads") -> "list[Head]":
        """The first --top-k heads of a list of the file --heads.

        Raises:
            ValueError: a list of another model, without --foreign-heads, or with fewer heads.
            IndexError: a head that the model does not have.
        """
        from llava_hh.decoding.head_lists import heads_of_list

        lvlm, given = self.teacher.lvlm, self.options
        return heads_of_list(given["heads"], lvlm, given["top_k"], key, given["foreign_heads"])

    def run(self, out: Path) -> dict | None:
        from llava_hh.attribution.captions import (
            TeacherForced,
            all_captions,
            hallucinating_captions,
            refuse_other_model,
        )

        options, captions, limit = self.options, self.options["captions"], self.options["limit"]
        refuse_other_model(captions, options["model"])
        if self.hallucinating:
            every = hallucinating_captions(captions, allow_none=self.without is not None)
        else:
            every = all_captions(captions)
        if not every:
            if processes().is_main:
                say(f"{captions}: no caption with a hallucinated object, so there are {self.without}")
            return None
        self.entries = every[:limit]
        self.teacher = TeacherForced(options["model"], options["image_folder"])
        self.prepare()
        self.out = out
        settings = MeasureSettings(**self.teacher.fields(every, options["batch_size"], limit), further=self.further())
        announce(f"{self.label}: {len(self.entries)} captions, {options['model']}, into {out}")
        given = (self.label, self.teacher.image_of, self.measure)
        with measured_captions(out, settings, self.entries, *given) as measured:
            said = settings.record() | self.also_said()
            return None if measured is None else self.write(out, self.summarise(measured), said)
