"""Files that are one JSON object of long lists, such as COCO's, read an element at a time."""

import re
from collections.abc import Iterator
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any, TextIO

PIECE = 1 << 20  # characters read at once
COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")


def read_lists(path: Path) -> Iterator[tuple[str, Any]]:
    """The elements of an object's lists in file order, each with its list's key; None where a list is empty.

    Values that are no lists are left out. Memory is that of the largest element, not of the file.

    Raises:
        ValueError: not JSON, not an object, or not UTF-8.
    """
    with open(path, encoding="utf-8") as file:
        text = _Text(file)
        text.expect("{")
        for _ in text.elements("}"):
            key = text.value()
            text.expect(":")
            if not text.take("["):
                text.value()
            elif text.peek() == "]":
                text.expect("]")
                yield key, None
            else:
                for _ in text.elements("]"):
                    yield key, text.value()
        if text.peek():
            raise ValueError(f"more text behind the object: {text.peek()!r}")


class _Text:
    """A JSON text that is read as far as it is needed."""

    def __init__(self, file: TextIO):
        self.file, self.text, self.place, self.is_whole = file, "", 0, False
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
        """The value that comes next, whole."""
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
