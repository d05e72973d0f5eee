"""What a comparison shows: its table, pictures, the rates at which heads fired, the choice of a setting."""

from collections.abc import Mapping
from pathlib import Path

from llava_hh.comparing.summary import cell, label_of, note_of_left_out, table_of, table_of_pope, table_of_spread
from llava_hh.experiments.captioning import RESULT_FILE
from llava_hh.experiments.choice import choice_of
from llava_hh.experiments.reference_loss import CAPTION_METRICS
from llava_hh.figures.caption_examples import draw_caption_examples
from llava_hh.figures.methods import draw_methods
from llava_hh.figures.style import delete_picture, picture
from llava_hh.figures.trade_off import draw_trade_off
from llava_hh.files.files import write_json, write_text
from llava_hh.files.tables import Estimate, Table, beside, print_table
from llava_hh.metrics.of_captions import METRICS


def show_table(path: Path, table: Table, form: str) -> None:
    """Print a table in a format, and write it as Markdown beside the result file."""
    write_text(path.with_suffix(".md"), table.markdown() + "\n")
    print_table(table, form)


def show_captions(path: Path, summary: dict, folder: Path, image_folder: Path, form: str, debug: bool) -> None:
    """The table of a comparison of captions, how its groups vary, what heads did, and its pictures.

    Args:
        path: the summary; folder: of the methods' folders.
    """
    show_table(path, table_of(summary), form)
    methods = summary["methods"]
    spreads = {name: entry["over_runs"] for name, entry in methods.items() if "over_runs" in entry}
    spreads = {label_of(name, methods[name]): own for name, own in spreads.items() if not methods[name]["draws_heads"]}
    if spreads:
        print(file=beside(form))
        print_table(table_of_spread(spreads), form)
        print(file=beside(form))
    for name, entry in methods.items():
        if rates := entry.get("fired"):
            print(f"fired, {entry.get('label', name)}: {in_words(rates)}", file=beside(form))
    print(path, file=beside(form))
    with picture(path.with_suffix(""), debug, beside(form)) as out:
        draw_methods(path, out)
    n_images = methods["greedy"]["n"]
    shown = (e for e in methods.values() if e.get("kind") not in ("greedy", None) and e["n"] == n_images)
    pictured = path.with_name(f"{path.stem}_captions")
    if not (changed := next(shown, None)):
        delete_picture(pictured)
    else:
        with picture(pictured, debug, beside(form)) as out:
            greedy, other = (folder / name / RESULT_FILE for name in ("greedy", changed["folder"]))
            draw_caption_examples(greedy, other, image_folder, out, changed["label"])


def in_words(rates: Mapping[str, Mapping]) -> str:
    """How often each head fired; of a group, the mean over the heads of each of its draws."""
    if all("rate" in own for own in rates.values()):
        return ", ".join(f"{head} {100 * own['rate']:.1f}%" for head, own in rates.items())
    means = [sum(own["rate"] for own in draw.values()) / len(draw) for draw in rates.values()]
    return "mean over the heads of each draw " + ", ".join(f"{100 * mean:.1f}%" for mean in means)


def show_choice(out: Path, summary: dict, recall_loss: float, mentions_change: float, form: str, debug: bool) -> None:
    """Write choice.json, print the chosen setting and draw the trade-off."""
    content = choice_of(summary, recall_loss, mentions_change)
    path, chosen = out / "choice.json", content["chosen"]
    write_json(path, content)
    print(
        f"chosen: top {chosen['top_k']} at {chosen['threshold']:g}" if chosen else "chosen: none does better",
        file=beside(form),
    )
    print(path, file=beside(form))
    with picture(out / "choice", debug, beside(form)) as picture_path:
        draw_trade_off(path, picture_path)


def show_pope(path: Path, content: dict, form: str) -> None:
    """POPE's table."""
    show_table(path, table_of_pope(content), form)
    print(path, file=beside(form))


def show_losses(path: Path, content: dict, form: str) -> None:
    """The table of losses."""
    show_table(path, table_of_losses(content), form)
    print(path, file=beside(form))


def table_of_losses(content: dict) -> Table:
    """The methods' losses, and what their own captions are like."""
    methods = content["methods"]
    captioned = CAPTION_METRICS if any("captions" in entry for entry in methods.values()) else ()
    heads = ["method", "loss, nats per token", "perplexity", "loss minus greedy"]
    heads += [METRICS[metric].head for metric in captioned]
    rows = []
    for entry in methods.values():
        interval = entry["interval"]
        cells = [entry["label"], Estimate(entry["loss"], interval["loss"], form=".3f")]
        cells.append(Estimate(entry["perplexity"], interval["perplexity"], form=".2f"))
        cells.append(
            Estimate(entry["difference"], interval["difference"], form="+.4f") if "difference" in entry else ""
        )
        rows.append(cells + [cell(entry.get("captions", {}), metric) for metric in captioned])
    n_images = methods["greedy"]["n_images"]
    note = f"In brackets: 95% bootstrap intervals over {n_images} images." + note_of_left_out(content["settings"])
    return Table(heads, rows, note)
