"""MME's hallucination subset as published: a folder per category with a text file per image, two questions in each."""

from dataclasses import dataclass
from pathlib import Path

from llava_hh.files.files import read_text

CATEGORIES = ("existence", "count", "position", "color")
SUFFIXES = ("Please answer yes or no.", "Answer the question using a single word or phrase.")


@dataclass(frozen=True)
class Question:
    """One question; `image` is the name of its picture without an ending, `answer` "yes" or "no"."""

    category: str
    image: str
    text: str
    answer: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.category, self.image, plain_question(self.text)


def plain_question(text: str) -> str:
    """A question without the benchmark's or the harness's request behind it, and with single blanks."""
    for suffix in SUFFIXES:
        text = text.replace(suffix, "")
    return " ".join(text.split())


def load_mme(folder: Path) -> list[Question]:
    """Read the four categories of MME_Benchmark_release_version; the two questions of an image stand together.

    A category's text files stand in its folder or in `questions_answers_YN` there, one `question<tab>Yes|No` a line.

    Raises:
        FileNotFoundError: a category that is not there, or has no text files.
        ValueError: a file of another form; one line that names it.
    """
    questions = []
    for category in CATEGORIES:
        inner = folder / category / "questions_answers_YN"
        files = sorted((inner if inner.is_dir() else folder / category).glob("[!.]*.txt"))  # "._0001.txt" is macOS's
        if not files:
            what = "no question files (*.txt); --annotations is MME's release folder"
            raise FileNotFoundError(f"{folder / category}: {what}")
        for path in files:
            questions += _read(path, category)
    return questions


def _read(path: Path, category: str) -> list[Question]:
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if len(lines) != 2:
        raise ValueError(f"{path}: has {len(lines)} questions; expected two")
    questions = []
    for number, line in enumerate(lines, start=1):
        text, tab, answer = line.rpartition("\t")
        if not tab or answer.strip().lower() not in ("yes", "no"):
            raise ValueError(f"{path}, line {number}: expected a question, a tab and Yes or No, found {line!r:.80}")
        questions.append(Question(category, path.stem, text.strip(), answer.strip().lower()))
    if questions[0].key == questions[1].key:
        raise ValueError(f"{path}: asks the same question twice")
    return questions
