"""The grammar of methods: `kind:field=value,field=value`, and `A+B` for an intervention B under a decoder A.

A value with a comma, colon, plus, quote or blank stands in double quotes; inside these a double quote is written twice.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
TOKEN = re.compile(r'"(?:[^"]|"")*"|[^",:+\s]+|[,:+]')
LITERAL = re.compile(r"\s*L\d+H\d+\s*(,\s*L\d+H\d+\s*)*")  # heads, such as L24H4,L23H3
SAMPLE = "such as adhh:top_k=20,threshold=0.4"


@dataclass(frozen=True)
class Spec:
    """A method as it was written: its kind, its fields, and what is put under it."""

    kind: str
    fields: Mapping[str, object] = field(default_factory=dict)
    under: "Spec | None" = None

    def __str__(self) -> str:
        given = ",".join(f"{name}={_written(value)}" for name, value in self.fields.items())
        return f"{self.kind}{':' if given else ''}{given}{f'+{self.under}' if self.under else ''}"


def parse(text: str) -> Spec:
    """Read a method.

    Raises:
        ValueError: another form; names the text and what is wrong with it.
    """
    try:
        return _combined(_tokens(text))
    except ValueError as error:
        raise ValueError(f"method {text!r}: {error}") from None


def filled(spec: Spec, defaults: Mapping[str, Mapping[str, object]]) -> Spec:
    """A method with fields that it does not name, by its kind; one that takes a choice keeps the choice's."""
    own = {} if "choice" in spec.fields else dict(defaults.get(spec.kind, {}))
    if LITERAL.fullmatch(str(spec.fields.get("heads", ""))):  # as many as are written out
        own.pop("top_k", None)
    under = spec.under and filled(spec.under, defaults)
    return Spec(spec.kind, {**own, **spec.fields}, under)


def unknown(what: str, name: str, known: Mapping[str, object] | list[str]) -> ValueError:
    """The error for a name that there is not, with the nearest one that there is."""
    near = get_close_matches(name, list(known), 1)
    return ValueError(f"no {what} {name!r}; {f'did you mean {near[0]}? ' if near else ''}there are {', '.join(known)}")


def _tokens(text: str) -> list[str]:
    found, end = [], 0
    for match in TOKEN.finditer(text):
        if match.start() > end:
            break
        found.append(match.group())
        end = match.end()
    if end < len(text):
        what = "a quote without its end" if text[end] == '"' else "a blank outside of quotes"
        raise ValueError(f"{what} at {text[end:]!r}; expected kind:field=value,... {SAMPLE}")
    return found


def _combined(tokens: list[str]) -> Spec:
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == "+":
            parts.append([])
        else:
            parts[-1].append(token)
    found = None
    for part in reversed(parts):
        found = _single(part, found)
    return found


def _single(tokens: list[str], under: Spec | None) -> Spec:
    kind = tokens[0] if tokens else ""
    if not NAME.fullmatch(kind) or tokens[1:2] not in ([], [":"]):
        raise ValueError(f"expected kind:field=value,... {SAMPLE}")
    fields: dict[str, object] = {}
    rest = tokens[2:]
    if tokens[1:] and not rest:
        raise ValueError("a field=value is expected behind the colon")
    while rest:
        name, equals, value = rest[0].partition("=")
        taken = 1
        if not value and rest[1:] and rest[1].startswith('"'):
            value, taken = rest[1], 2
        if not (NAME.fullmatch(name) and equals and value) or name in fields:
            why = "is given twice" if name in fields else "is no field=value"
            raise ValueError(f"{rest[0]!r} {why}")
        fields[name] = _value(value)
        rest = rest[taken:]
        if rest and (rest[0] != "," or not rest[1:]):
            raise ValueError(f"a comma and another field are expected before {' '.join(rest)!r}")
        rest = rest[1:]
    return Spec(kind, fields, under)


def _value(text: str) -> object:
    """What a value says: in quotes the text or, as outside of them, JSON where it is some."""
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
