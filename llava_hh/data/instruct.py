"""Instruction data in the layout of llava_v1_5_mix665k.json, read row by row: conversations, most with an image."""

import codecs
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import Any

from llava_hh.files.files import parse_json
from llava_hh.files.ids import whole_id
from llava_hh.files.images import check_image_name
from llava_hh.files.progress import progress

IMAGE_MARK = "<image>"
BOM = codecs.BOM_UTF8.decode("latin-1")
NOT_A_ROW = re.compile(r"[ \t\r\n,]*")
CHUNK = 2**24  # bytes read at a time
IMAGE_WORDS = 128  # what an image counts as in lengths, as in LLaVA


@dataclass(frozen=True)
class Conversation:
    """turns: (question, answer) pairs without the image's mark; image: a path under the image folder, or None."""

    sample_id: str
    image: str | None
    turns: tuple[tuple[str, str], ...]

    @property
    def length(self) -> int:
        """Words of all turns, and IMAGE_WORDS for an image; to group samples of similar length."""
        words = sum(len(question.split()) + len(answer.split()) for question, answer in self.turns)
        return words + (IMAGE_WORDS if self.image else 0)


class InstructionData:
    """The conversations of a file, read when they are indexed; memory holds their positions and lengths.

    Opening reads the file once, a piece at a time, and checks every row.

    Args:
        skip_bad: leave bad rows out, instead of stopping at the first; `bad` lists what was wrong with them.

    Raises:
        ValueError: a row of another form; one line with the file, the row's index and what was expected.
        FileNotFoundError: no such file.
    """

    def __init__(self, path: str | Path, skip_bad: bool = False) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected one in the layout of llava_v1_5_mix665k.json")
        self._entries = array("q")  # of each conversation: first byte, end, row in the file, length
        self.has_image, self.bad = bytearray(), []
        for index, (raw, start, end) in enumerate(self._scan()):
            try:
                conversation = parse_conversation(parse_json(raw))
            except ValueError as error:
                message = f"{path}: row {index}: {error}"
                if not skip_bad:
                    raise ValueError(message) from None
                self.bad.append(message)
                continue
            self._entries.extend((start, end, index, conversation.length))
            self.has_image.append(conversation.image is not None)
        if not self._entries:
            raise ValueError(f"{path}: holds no conversation")

    def __len__(self) -> int:
        return len(self.has_image)

    def __getitem__(self, index: int) -> Conversation:
        start, end, row, _ = (self._entries[4 * index + field] for field in range(4))
        with open(self.path, "rb") as file:
            file.seek(start)
            return parse_conversation(parse_json(file.read(end - start)), default_id=str(row))

    @property
    def lengths(self) -> list[int]:
        return list(self._entries[3::4])

    def _scan(self) -> Iterator[tuple[bytes, int, int]]:
        """The bytes of every row of the list, and where they start and end; commas are not checked."""
        size = self.path.stat().st_size
        with (
            open(self.path, "rb") as file,
            progress(f"reading {self.path.name}", "B", total=size, hidden=size < CHUNK, unit_scale=True) as bar,
        ):
            # one byte a character, so that positions in the text are positions in the file; rows are decoded anew
            text = file.read(max(CHUNK, len(BOM))).decode("latin-1")
            opening = NOT_A_ROW.match(text, len(BOM) * text.startswith(BOM)).end()
            if text[opening : opening + 1] != "[":
                raise ValueError(f"{self.path}: expected a JSON list of conversations")
            before, start = 0, opening + 1  # `before`: how much of the file stands ahead of `text`
            while True:
                start = NOT_A_ROW.match(text, start).end()
                if text[start : start + 1] == "]":
                    return
                try:
                    _, end = JSONDecoder().raw_decode(text, start)
                except JSONDecodeError as error:
                    more = file.read(CHUNK).decode("latin-1")
                    if not more:
                        message = f"{self.path}: not JSON ({error.msg} at byte {before + error.pos})"
                        raise ValueError(message) from None
                    bar.update(len(more))
                    text, before, start = text[start:] + more, before + start, 0
                    continue
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}: not JSON ({error} at byte {before + start})") from None
                yield text[start:end].encode("latin-1"), before + start, before + end
                start = end


def parse_conversation(row: Any, default_id: str = "") -> Conversation:
    """Check one row of the file.

    Raises:
        ValueError: what is wrong with it; the caller names the file and the row.
    """
    if not isinstance(row, dict) or not isinstance(row.get("conversations"), list):
        raise ValueError("expected an object with a list `conversations`")
    image, said = row.get("image"), row["conversations"]
    if image is not None:
        check_image_name(image)
    if not said or len(said) % 2:
        raise ValueError(f"`conversations` has {len(said)} parts; expected questions and answers in turns")
    for index, part in enumerate(said):
        speaker = ("human", "gpt")[index % 2]
        if not isinstance(part, dict) or part.get("from") != speaker or not isinstance(part.get("value"), str):
            raise ValueError(f'conversations[{index}] must be {{"from": "{speaker}", "value": text}}, not {part!r:.80}')
    texts = [part["value"] for part in said]
    # as LLaVA's training does: the image goes in front of the question, wherever its mark stood; without an image, the
    # mark is text like any other
    if image:
        marks = [index for index, text in enumerate(texts) for _ in range(text.count(IMAGE_MARK))]
        if marks != [0]:
            raise ValueError(f"{IMAGE_MARK} must stand once, in the first question; it stands in parts {marks}")
        texts[0] = texts[0].replace(IMAGE_MARK, "")
    texts[0] = texts[0].strip()
    sample_id = row.get("id", default_id)
    sample_id = sample_id if isinstance(sample_id, str) else str(whole_id(sample_id))
    return Conversation(sample_id, image, tuple(zip(texts[::2], texts[1::2], strict=True)))
