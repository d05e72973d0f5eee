"""The grammar of methods: `kind:field=value,field=value`, and `A+B` for an intervention B under a decoder A.

A value with a comma, colon, plus, quote or blank stands in double quotes; inside these a double quote is written twice.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

from llava_hh.heads import literal_heads

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
FIELD = re.compile(rf'({NAME.pattern})=("(?:[^"]|"")*"|[^",:+\s]+)')
EXPECTED = "expected kind:field=value,... such as adhh:top_k=20,threshold=0.4"


@dataclass(frozen=True)
class Spec:
    """A method as it was written: its kind, its fields, and the intervention under it.

    is_one_of_all: it was not named but meant by `all`, so it may be left out where it cannot be.
    """

    kind: str
    fields: Mapping[str, object] = field(default_factory=dict)
    under: "Spec | None" = None
    is_one_of_all: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        given = ",".join(f"{name}={_written(value)}" for name, value in self.fields.items())
        return f"{self.kind}{':' if given else ''}{given}{f'+{self.under}' if self.under else ''}"

    @property
    def parts(self) -> "Iterator[Spec]":
        """The method and all that is under it: A, B and C of A+B+C."""
        yield self
        if self.under:
            yield from self.under.parts

    def with_fields(self, change: "Callable[[Spec], Mapping[str, object]]") -> "Spec":
        """The method with the fields that `change` gives for each of its parts."""
        return replace(self, fields=change(self), under=self.under and self.under.with_fields(change))

    def error(self, problem: object) -> ValueError:
        """An error that names the method."""
        return ValueError(f"method {str(self)!r}: {problem}")


def parse(text: str) -> Spec:
    """Read a method.

    Raises:
        ValueError: another form; names the text and what is wrong with it.
    """
    try:
        return _read(text)
    except ValueError as error:
        raise ValueError(f"method {text!r}: {error}") from None


def _read(text: str) -> Spec:
    kind = NAME.match(text)
    if not kind:
        raise ValueError(f"{EXPECTED}, not {text!r}")
    rest, fields = text[kind.end() :], {}
    while rest[:1] == ("," if fields else ":"):
        given = FIELD.match(rest, 1)
        if not given or given[1] in fields:
            why = f"{given[1]} is given twice" if given else f"{rest[1:]!r} is no field=value"
            raise ValueError(f"{why}; {EXPECTED}")
        fields[given[1]] = _value(given[2])
        rest = rest[given.end() :]
    if rest and rest[0] != "+":
        raise ValueError(f"{rest!r} follows a field or a kind; {EXPECTED}, with double quotes round other characters")
    return Spec(kind[0], fields, _read(rest[1:]) if rest else None)


def filled(spec: Spec, defaults: Mapping[str, Mapping[str, object]], heads: object = None) -> Spec:
    """A method with default fields, by kind, that it does not name; a part with `choice` takes the choice's instead.

    Args:
        heads: the list of parts that name none.
    """

    def fill(part: Spec) -> dict[str, object]:
        missing = {} if "choice" in part.fields else dict(defaults.get(part.kind, {}))
        if literal_heads(part.fields.get("heads", heads)):  # as many as are written out
            missing.pop("top_k", None)
        return {**missing, **part.fields}

    return spec.with_fields(fill)


def unknown(what: str, name: str, known: Mapping[str, object] | list[str]) -> str:
    """The error text for an unknown name, with the nearest known one."""
    near = [each for each in known if name and each.startswith(name)] or get_close_matches(name, list(known), 1)
    return f"no {what} {name!r}; {f'did you mean {near[0]}? ' if near else ''}there are {', '.join(known)}"


def _value(text: str) -> object:
    """The value of a field: JSON where the text is some. A text in quotes is only read as a JSON list or object."""
    if text.startswith('"'):
        text = text[1:-1].replace('""', '"')
        return _json(text) if text[:1] in ("[", "{") else text
    return _json(text)


def _json(text: str) -> object:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, float) and value != value else value


def _written(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    plain = re.fullmatch(r'[^",:+\s]+', text) and (not isinstance(value, str) or _json(text) == text)
    return text if plain else '"' + text.replace('"', '""') + '"'
