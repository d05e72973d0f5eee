"""Files of long JSON lists, such as COCO's, read an element at a time."""

import re
from collections.abc import Container, Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, TextIO

from llava_hh.files.files import HalfCharacter, Skip, refuse, refuse_half_characters

PIECE = 1 << 20  # characters read at once
COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


def read_lists(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of an object's lists in file order, each with its list's key; None where a list is empty.

    Values that are no lists are left out. Memory is that of the largest element, not of the file.

    Raises:
        ValueError: not JSON, not an object, or not UTF-8.
    """
    return ((key, element) for key, _, element in read_rows(path))


def read_rows(
    path: Path, keys: Container[str] | None = None, skip: Skip = None, is_list: bool = False
) -> Iterator[tuple[str, int, Any]]:
    """As `read_lists`, each element with its row in its list, from 1; row 0 and None where a list is empty.

    Args:
        keys: of the lists that are wanted; None is all. What others hold is not looked at.
        skip: takes the message of an element with half of a character in it.
        is_list: the file is one list, whose key is "", and not an object of lists.
    """
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(file)
        if is_list:
            text.expect("[")
            yield from _rows_of("", text, skip)
        else:
            text.expect("{")
            for _ in text.elements("}"):
                key = text.value()
                text.expect(":")
                is_wanted = keys is None or key in keys
                if is_wanted and text.take("["):
                    yield from _rows_of(key, text, skip)
                elif text.take("["):
                    for _ in text.elements("]"):
                        text.next_value()
                else:
                    text.next_value()
        if text.peek():
            raise ValueError(f"more text behind the {'list' if is_list else 'object'}: {text.peek()!r}")


def _rows_of(key: str, text: "_Text", skip: Skip) -> Iterator[tuple[str, int, Any]]:
    if text.peek() == "]":
        text.expect("]")
        yield key, 0, None
        return
    for row, _ in enumerate(text.elements("]"), start=1):
        try:
            element = text.value()
        except HalfCharacter as error:
            refuse(f"{in_list(key, row)}: {error}", skip)
            continue
        yield key, row, element


def read_values(path: Path, keys: Container[str]) -> dict[str, Any]:
    """The values of some keys of a file's object; lists of others are passed over, an element at a time.

    Raises:
        ValueError: not JSON, not an object, or not UTF-8.
    """
    found = {}
    with open(path, encoding="utf-8-sig") as file:
        text = _Text(file)
        text.expect("{")
        for _ in text.elements("}"):
            name = text.value()
            text.expect(":")
            if name in keys:
                found[name] = text.value()
            elif text.take("["):
                for _ in text.elements("]"):
                    text.next_value()
            else:
                text.next_value()
    return found


def in_list(key: str, row: int) -> str:
    """Where an element stands, in words."""
    return f"row {row}" + (f" of `{key}`" if key else "")


class _Text:
    """A JSON text that is read as far as it is needed."""

    def __init__(self, file: TextIO):
        self.file, self.text, self.place, self.is_whole = file, "", 0, False
        self.has_surrogates = False
        self.decode = JSONDecoder().raw_decode
        self.scan = JSONDecoder().scan_once  # the same without its checks; from a place that is not blank

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            for place in range(self.place, len(self.text)):
                if (character := self.text[place]) not in " \t\n\r":
                    self.place = place
                    return character
            self.place = len(self.text)
            if self.is_whole:
                return ""
            self._read_on()

    def take(self, character: str) -> bool:
        """Step over the next character if it is this one."""
        if self.peek() != character:
            return False
        self.place += 1
        return True

    def expect(self, character: str) -> None:
        if not self.take(character):
            raise ValueError(f"expected {character!r}, found {self.peek() or 'the end'!r}")

    def elements(self, closing: str) -> Iterator[None]:
        """Stand before each element up to `closing`; the caller reads it."""
        if self.take(closing):
            return
        yield
        while True:
            comma = COMMA.match(self.text, self.place)
            if comma and comma.end() < len(self.text):  # nearly always
                self.place = comma.end()
            elif self.take(closing):
                return
            else:
                self.expect(",")
            yield

    def value(self) -> Any:
        """The value that comes next, whole.

        Raises:
            HalfCharacter: half of a character in it; what follows it can still be read.
            ValueError: it is not JSON.
        """
        found = self.next_value()
        if self.has_surrogates:
            refuse_half_characters(found)
        return found

    def next_value(self) -> Any:
        """The same, whatever its texts hold."""
        try:
            return self._decode_next()
        except RecursionError as error:
            raise ValueError(f"not JSON ({error})") from None

    def _decode_next(self) -> Any:
        try:
            found, end = self.scan(self.text, self.place)
        except (StopIteration, ValueError):
            pass  # blank, cut off or wrong: what follows tells which
        else:
            if end < len(self.text):
                self.place = end
                return found
        self.peek()
        while True:
            try:
                found, end = self.decode(self.text, self.place)
            except JSONDecodeError:
                if self.is_whole:
                    raise
            else:
                if end < len(self.text) or self.is_whole:  # a number may go on behind what was read
                    self.place = end
                    return found
            self._read_on()

    def _read_on(self) -> None:
        """Read as much again as is held, so that a long value is not tried too often."""
        held = self.text[self.place :]
        more = self.file.read(max(PIECE, len(held)))
        self.text, self.place, self.is_whole = held + more, 0, not more
        self.has_surrogates = "\\ud" in self.text or "\\uD" in self.text
