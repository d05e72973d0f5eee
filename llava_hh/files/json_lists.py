"""Files of long JSON lists, such as COCO's, read a piece at a time.

msgspec reads all elements that lie whole in a piece at once, and leaves out what no caller asks for, such as outlines.
Python's json reads the others one by one. It also reads what msgspec refuses (NaN, half of a character, damage), so
that it alone decides what is an error, and in which row.
"""

import re
from collections.abc import Callable, Container, Iterable, Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, TextIO, TypedDict

from msgspec import MsgspecError
from msgspec.json import Decoder

from llava_hh.files.files import HalfCharacter, Skip, refuse, refuse_half_characters

PIECE = 1 << 20  # characters read at once
BLANK = " \t\n\r"
BLANKS = re.compile(f"[{BLANK}]*")
BEGIN = re.compile(rf'\{{[{BLANK}]*"[^"\\]+"')  # of an object with its first key


def read_lists(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of an object's lists in file order, with the key of the list; None where a list is empty.

    Values other than lists are left out. Memory is that of the largest element, not of the file.

    Raises:
        ValueError: not JSON, not an object, or not UTF-8.
    """
    return ((key, element) for key, _, element in read_rows(path))


def read_rows(
    path: Path,
    keys: Container[str] | None = None,
    skip: Skip = None,
    is_list: bool = False,
    fields: Iterable[str] | None = None,
) -> Iterator[tuple[str, int, Any]]:
    """Each element of an object's lists, with its list's key and its row, from 1; row 0 and None for an empty list.

    Args:
        keys: of the lists that are wanted; None is all. The content of others is not checked.
        skip: takes the message of an element with half of a character in it.
        is_list: the file is one list, whose key is "", and not an object of lists.
        fields: of an element that is an object, those that the caller reads; others may be left out. None is all.
    Raises:
        ValueError: not JSON, not an object (or a list), or not UTF-8; or half of a character, unless `skip` takes it.
    """
    with open(path, encoding="utf-8-sig") as file:
        text, decode = _Text(file), _decoder(fields)
        if is_list:
            text.expect("[")
            yield from text.rows("", skip, decode)
        else:
            for key in text.object_keys():
                if (keys is None or key in keys) and text.take("["):
                    yield from text.rows(key, skip, decode)
                else:
                    text.pass_over()
        if text.peek():
            raise ValueError(f"more text behind the {'list' if is_list else 'object'}: {text.peek()!r}")


def read_values(path: Path, keys: Container[str]) -> dict[str, Any]:
    """The values of some keys of a file's object; lists of others are passed over, an element at a time.

    Raises:
        ValueError: not JSON, not an object, or not UTF-8.
    """
    values = {}
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(file)
        for key in text.object_keys():
            if key in keys:
                values[key] = text.value()
            else:
                text.pass_over()
    return values


def in_list(key: str, row: int) -> str:
    """The row of an element and its list, in words."""
    return f"row {row}" + (f" of `{key}`" if key else "")


def _decoder(fields: Iterable[str] | None) -> Callable[[str], list[dict]]:
    """Compiled reader of a JSON list of objects, which keeps these of their fields; None is all.

    Differs: a number of thousands of digits, which Python does not read, is no error in a field that is left out.
    """
    kept = dict[str, Any] if fields is None else TypedDict("Row", dict.fromkeys(fields, Any), total=False)
    return Decoder(list[kept]).decode


class _Text:
    """A JSON text that is read as far as it is needed."""

    def __init__(self, file: TextIO):
        self.file, self.text, self.index, self.is_whole = file, "", 0, False
        self.has_surrogates = self.is_tried = False
        self.decode = JSONDecoder().raw_decode

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            self.index = BLANKS.match(self.text, self.index).end()
            if self.index < len(self.text) or self.is_whole:
                return self.text[self.index : self.index + 1]
            self._read_on()

    def take(self, character: str) -> bool:
        """Step over the next character if it is this one."""
        if self.peek() != character:
            return False
        self.index += 1
        return True

    def expect(self, character: str) -> None:
        if not self.take(character):
            raise ValueError(f"expected {character!r}, found {self.peek() or 'the end'!r}")

    def elements(self, closing: str) -> Iterator[None]:
        """Stop before every element up to `closing`; the caller reads it."""
        if not self.take(closing):
            yield
            while self.take(","):
                yield
            self.expect(closing)

    def object_keys(self) -> Iterator[str]:
        """The keys of an object; the caller reads the value behind the key."""
        self.expect("{")
        for _ in self.elements("}"):
            key = self.value()
            self.expect(":")
            yield key

    def rows(self, key: str, skip: Skip, decode: Callable[[str], list[dict]]) -> Iterator[tuple[str, int, Any]]:
        """The elements of a list with its key and their rows, from behind the bracket that opens the list."""
        row = 0
        if self.peek() == "]":
            yield key, 0, None
        for _ in self.elements("]"):
            if several := self.whole_objects(decode):
                for value in several:
                    row += 1
                    yield key, row, value
                continue
            row += 1
            try:
                yield key, row, self.value()
            except HalfCharacter as error:
                refuse(f"{in_list(key, row)}: {error}", skip)

    def whole_objects(self, decode: Callable[[str], list[dict]]) -> list[dict]:
        """The elements that are held whole, but the last, by `decode`; none where it refuses them or they are others.

        The last is taken to begin where the text last reads as the next element does, up to its first key. Were that
        inside another element, brackets or quotes would stay open, and `decode` refuses that.
        """
        self.peek()
        begin = BEGIN.match(self.text, self.index)
        last = self.text.rfind(begin[0], begin.end()) if begin and not self.is_tried else -1
        self.is_tried = True
        before = self.text[self.index : max(last, self.index)].rstrip(BLANK)
        if not before.endswith(","):
            return []
        try:
            elements = decode(f"[{before[:-1]}]")
        except (MsgspecError, RecursionError):
            return []
        self.index += len(before) - 1
        return elements

    def pass_over(self) -> None:
        """Skip the next value; a list is read an element at a time."""
        if self.take("["):
            for _ in self.elements("]"):
                self._next_value()
        else:
            self._next_value()

    def value(self) -> Any:
        """The value that comes next, whole.

        Raises:
            HalfCharacter: half of a character in it; what follows it can still be read.
            ValueError: it is not JSON.
        """
        value = self._next_value()
        if self.has_surrogates:
            refuse_half_characters(value)
        return value

    def _next_value(self) -> Any:
        """The value that comes next, whatever its texts hold."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.index)
            except JSONDecodeError:
                if self.is_whole:
                    raise
            except RecursionError as error:
                raise ValueError(f"not JSON ({error})") from None
            else:
                # a number may go on behind what is held, also where that ends with "1." or "1e-"
                goes_on = type(value) in (int, float) and not self.text[end : end + 3].strip(".eE+-")
                if self.is_whole or (end < len(self.text) and not (goes_on and end + 3 > len(self.text))):
                    self.index = end
                    return value
            self._read_on()

    def _read_on(self) -> None:
        """Read as much again as is held, so that a long value is not tried too often."""
        held = self.text[self.index :]
        more = self.file.read(max(PIECE, len(held)))
        self.text, self.index, self.is_whole, self.is_tried = held + more, 0, not more, False
        self.has_surrogates = "\\ud" in self.text or "\\uD" in self.text
