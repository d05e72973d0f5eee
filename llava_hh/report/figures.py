"""The figures of a results folder, each with a sentence that its JSON file supports."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from llava_hh.figures.findings import FIGURES
from llava_hh.report.folder import ResultFolder, read_form
from llava_hh.report.images import data_uri
from llava_hh.report.tables import in_words


def find_figures(results: ResultFolder) -> list[dict]:
    """Every figure there is: `title`, `seen` (a sentence or nothing), `source` and `picture`, a data URI."""
    wanted: list[tuple[str, Path, str, Callable[[Path], str]]] = [
        (finding.title, source, f"{source.stem}.png", finding.seen_in)
        for finding in FIGURES
        for source in results.named(f"{finding.name}.json")
    ]
    for title, pattern, seen in (
        ("Choice of heads and threshold", "choice.json", lambda source: read_form(source, sentence_of_choice)),
        ("Decoding methods", "summary*.json", lambda _: ""),
    ):
        wanted += [(title, source, f"{source.stem}.png", seen) for source in results.named(pattern)]
    for source in results.named("log.jsonl"):
        wanted.append((f"Fine-tuning, {source.parent.name}", source, "curves.png", lambda _: ""))

    def figure(title: str, picture: str, seen: Callable[[Path], str], source: Path) -> dict:
        draw = results.draw(source)
        return {
            "title": f"{title} ({draw})" if draw else title,
            "seen": in_words(seen(source)),
            "source": results.link(source),
            "picture": data_uri(source.with_name(picture)),
        }

    figures = []
    for title, source, picture, seen in wanted:
        if source.with_name(picture).is_file():
            figures += results.each([source], partial(figure, title, picture, seen))
    return figures


def sentence_of_choice(content: dict) -> str:
    chosen, greedy = content["chosen"], content["greedy"]
    tried = f"{len(content['points'])} settings were tried on {greedy['n']} images. Rule: {content['rule']}."
    if chosen is None:
        return f"{tried} None did better than greedy decoding."
    what = f"top {chosen['top_k']} heads at threshold {chosen['threshold']:g}"
    return (
        f"{tried} Chosen: {what}, CHAIR_i {chosen['CHAIRi']:.1%} and recall {chosen['recall']:.1%} "
        f"(greedy {greedy['CHAIRi']:.1%} and {greedy['recall']:.1%})."
    )
