"""The figures of a results folder, each with a sentence that its JSON file supports."""

from llava_hh.figures.findings import FIGURES
from llava_hh.report.folder import ResultFolder, read_form
from llava_hh.report.images import data_uri


def find_figures(results: ResultFolder) -> list[dict]:
    """Every figure there is: `title`, `seen` (a sentence or nothing), `source` and `picture`, a data URI."""
    figures = [
        (finding.title, finding.seen_in(source), source, source.with_suffix(".png"))
        for finding in FIGURES
        for source in results.named(f"{finding.name}.json")
    ]
    for source in results.named("choice.json"):
        seen = read_form(source, _choice)
        figures.append(("Choice of heads and threshold", seen, source, source.with_suffix(".png")))
    for source in results.named("summary*.json"):
        figures.append(("Decoding methods", "", source, source.with_suffix(".png")))
    for source in results.named("log.jsonl"):
        figures.append((f"Fine-tuning, {source.parent.name}", "", source, source.with_name("curves.png")))
    return [
        {
            "title": f"{title} ({draw})" if (draw := results.draw(source)) else title,
            "seen": seen,
            "source": results.link(source),
            "picture": data_uri(picture),
        }
        for title, seen, source, picture in figures
        if picture.is_file()
    ]


def _choice(content: dict) -> str:
    chosen, greedy = content["chosen"], content["greedy"]
    tried = f"{len(content['points'])} settings were tried on {greedy['n']} images. Rule: {content['rule']}."
    if chosen is None:
        return f"{tried} None did better than greedy decoding."
    what = f"top {chosen['top_k']} heads at threshold {chosen['threshold']:g}"
    return (
        f"{tried} Chosen: {what}, CHAIR_i {chosen['CHAIRi']:.1%} and recall {chosen['recall']:.1%} "
        f"(greedy {greedy['CHAIRi']:.1%} and {greedy['recall']:.1%})."
    )
