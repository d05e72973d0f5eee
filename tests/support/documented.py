"""docs/files.md as data: the keys of each result file, and how a real file is held to them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

HEADS = ["key", "type", "unit", "meaning", "example"]
LINK = re.compile(r"\[([^\]]+)\]\(#([a-z0-9_-]+)\)")
NEST = re.compile(r"list \(([a-z0-9, ]+)\) of numbers")
ARRAY = re.compile(r"(u?int\d+|float\d+) \(([a-z0-9, ]*)\)")
PLAIN = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
    "head": lambda value: isinstance(value, list) and len(value) == 2 and all(map(PLAIN["integer"], value)),
    "interval": lambda value: isinstance(value, list) and len(value) == 2 and type(value[0]) is type(value[1]),
}
WITH_UNITS = ("integer", "number", "interval", "numbers", "integers")


@dataclass
class Row:
    """A documented key: `type` in words, and whether some real file has it."""

    key: str
    type: str
    unit: str
    meaning: str
    example: str
    seen: bool = False


@dataclass
class Section:
    """A table of keys, of files with these names, or a form that other tables link to."""

    title: str
    patterns: list[str]
    rows: dict[str, Row] = field(default_factory=dict)
    inlined: list[Row] = field(default_factory=list)


def read_sections(text: str) -> dict[str, Section]:
    """The sections of the page that have a table, by the anchor of their heading."""
    sections, current = {}, None
    for line in text.splitlines():
        if line.startswith("### "):
            title = line.removeprefix("### ")
            current = Section(title, re.findall(r"`([^`]+)`", title))
            anchor = re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-")
            assert anchor not in sections, f"two headings {title!r}"
            sections[anchor] = current
        elif line.startswith("| `"):
            cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == len(HEADS), line
            row = Row(cells[0].strip("`"), *cells[1:])
            if row.key == "*":
                current.inlined.append(row)
            else:
                assert row.key not in current.rows, f"{current.title}: {row.key} stands there twice"
                current.rows[row.key] = row
    return {anchor: section for anchor, section in sections.items() if section.rows or section.inlined}


class Documented:
    """The page, and which of its keys were met in files."""

    def __init__(self, path: Path) -> None:
        self.sections = read_sections(path.read_text())

    def section_of(self, path: PurePath) -> Section | None:
        """The section of a file; where several patterns fit, the one that says most of how the name ends."""
        fitting = {pattern: own for own in self.sections.values() for pattern in own.patterns if path.match(pattern)}
        return fitting[max(fitting, key=lambda pattern: len(pattern.rpartition("*")[2]))] if fitting else None

    def check(self, path: Path) -> Iterator[str]:
        """What a file has that the page lacks, or has in another type."""
        section = self.section_of(path)
        if section is None:
            yield f"{path.name}: no section"
            return
        text = path.read_text()
        contents = [json.loads(text)] if path.suffix == ".json" else map(json.loads, text.splitlines())
        for content in contents:
            yield from self._object(path.name, section, "", content)

    def check_arrays(self, path: Path, arrays: dict[str, Any]) -> Iterator[str]:
        """As `check`, of named arrays."""
        section = self.section_of(path)
        for name, array in arrays.items():
            row = self._row(section, "", name) if section else None
            if row is None:
                yield f"{path.name}: array {name} is not documented"
                continue
            row.seen = True
            kind, axes = ARRAY.fullmatch(row.type).groups()
            n_axes = len([axis for axis in axes.split(",") if axis.strip()])
            if (str(array.dtype), array.ndim) != (kind, n_axes):
                yield f"{path.name}: array {name} is {array.dtype} of {array.ndim} axes; documented: {row.type}"

    def _row(self, section: Section, above: str, name: str) -> Row | None:
        """The row of a key in the object at `above`; `<name>` stands for any key, `*` for the rows of another table."""
        start = f"{above}." if above else ""
        if start + name in section.rows:
            return section.rows[start + name]
        any_name = re.compile(re.escape(start) + r"<[^<>.]+>")
        found = next((row for key, row in section.rows.items() if any_name.fullmatch(key)), None)
        for inlined in section.inlined if not above else ():
            inner = self._row(self.sections[LINK.search(inlined.type)[2]], above, name)
            if inner and (found is None or "<" not in inner.key):
                inlined.seen = True
                return inner
        return found

    def _object(self, where: str, section: Section, above: str, content: Any) -> Iterator[str]:
        """Hold an object to the rows of a section whose keys begin with `above`."""
        for name, value in content.items():
            row = self._row(section, above, name)
            if row is None:
                yield f"{where}, {section.title}: {above}{'.' * bool(above)}{name} is not documented"
                continue
            row.seen = True
            owner = next(own for own in self.sections.values() if any(row is each for each in own.rows.values()))
            yield from self._value(where, owner, row, value)

    def _value(self, where: str, section: Section, row: Row, value: Any) -> Iterator[str]:
        for one in row.type.split(" or "):
            if self.fits(one, value):
                form, is_list = LINK.search(one), one.startswith("list of ")
                for item in value if is_list else [value]:
                    if form:
                        yield from self._object(where, self.sections[form[2]], "", item)
                    elif isinstance(item, dict):
                        yield from self._object(where, section, row.key + "[]" * is_list, item)
                return
        yield f"{where}, {section.title}: {row.key} is {value!r:.60}; documented: {row.type}"

    def fits(self, kind: str, value: Any) -> bool:
        """Whether a value has a type that the page writes so."""
        if kind.startswith("list of "):
            one = kind.removeprefix("list of ")
            one = one if LINK.fullmatch(one) or one in PLAIN else one.removesuffix("s")
            return isinstance(value, list) and all(self.fits(one, each) for each in value)
        if nest := NEST.fullmatch(kind):
            return fits_nest(nest[1].count(",") + 1, value)
        return PLAIN["object"](value) if LINK.fullmatch(kind) else PLAIN[kind](value)

    def unseen(self) -> list[str]:
        """Documented keys that no file had."""
        return [
            f"{section.title}: {row.key}"
            for section in self.sections.values()
            for row in [*section.rows.values(), *section.inlined]
            if not row.seen
        ]

    def flaws(self) -> Iterator[str]:
        """Rows without a unit or meaning, or whose example is of another type."""
        for section in self.sections.values():
            for row in section.rows.values():
                where = f"{section.title}: {row.key}"
                if not row.meaning or not row.unit:
                    yield f"{where}: no meaning or no unit"
                needs_unit = any(word in row.type for word in WITH_UNITS) or ARRAY.fullmatch(row.type)
                if needs_unit and row.unit == "-":
                    yield f"{where}: a {row.type} without a unit"
                if row.example:
                    example = json.loads(row.example.strip("`"))
                    if not any(self.fits(kind, example) for kind in row.type.split(" or ")):
                        yield f"{where}: the example {row.example} is not a {row.type}"
                elif not (
                    LINK.search(row.type) or ARRAY.fullmatch(row.type) or row.type in ("object", "object or null")
                ):
                    yield f"{where}: no example"
                for link in LINK.finditer(row.type):
                    if link[2] not in self.sections:
                        yield f"{where}: links to #{link[2]}, which is not there"


def fits_nest(n_axes: int, value: Any) -> bool:
    """Whether lists are nested so deep, of numbers or null."""
    if n_axes:
        return isinstance(value, list) and all(fits_nest(n_axes - 1, each) for each in value)
    return value is None or PLAIN["number"](value)
