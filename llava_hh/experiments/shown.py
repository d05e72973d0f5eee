"""A comparison on the screen: its table, pictures, the rates at which heads fired, the choice of a setting."""

from collections.abc import Mapping
from pathlib import Path

from llava_hh.comparing.summary import cell, label_of, note_of_left_out, table_of, table_of_pope, table_of_spread
from llava_hh.experiments.captioning import RESULT_FILE
from llava_hh.experiments.choice import choice_of
from llava_hh.experiments.reference_loss import CAPTION_METRICS
from llava_hh.figures.caption_examples import draw_caption_examples
from llava_hh.figures.methods import draw_methods
from llava_hh.figures.methods_over_recall import draw_methods_over_recall
from llava_hh.figures.style import delete_picture, picture
from llava_hh.figures.trade_off import draw_trade_off
from llava_hh.files.files import write_json, write_text
from llava_hh.files.progress import say
from llava_hh.files.tables import Estimate, Table, beside, print_table
from llava_hh.metrics.of_captions import METRICS

NAMED = 40  # heads whose rates are printed one by one


def show_result(task: str, path: Path, content: dict, form: str) -> None:
    """Print the table of a task's result in a format, write it as Markdown beside the file, and print its name."""
    table = {"chair": table_of, "pope": table_of_pope, "loss": table_of_losses}[task](content)
    write_text(path.with_suffix(".md"), table.markdown() + "\n")
    print_table(table, form)
    if task == "chair":
        _show_groups(content["methods"], form)
    say(path, file=beside(form))


def _show_groups(methods: Mapping[str, dict], form: str) -> None:
    """Print how far the runs of each group vary, and how often heads fired."""
    varied = {name: entry for name, entry in methods.items() if "over_runs" in entry and not entry["draws_heads"]}
    if varied:
        say(file=beside(form))
        spreads = {label_of(name, entry): entry["over_runs"] for name, entry in varied.items()}
        print_table(table_of_spread(spreads), form)
        say(file=beside(form))
    for name, entry in methods.items():
        if rates := entry.get("fired"):
            say(f"fired, {entry.get('label', name)}: {in_words(rates)}", file=beside(form))


def draw_captions(path: Path, summary: dict, folder: Path, image_folder: Path, form: str, debug: bool) -> None:
    """Draw the pictures of a comparison of captions: all methods, and some captions of one method.

    Args:
        path: the summary; folder: the one that holds the methods' folders.
    """
    for name, draw in (("", draw_methods), ("_over_recall", draw_methods_over_recall)):
        with picture(path.with_name(f"{path.stem}{name}"), debug, beside(form)) as out:
            draw(path, out)
    methods, pictured = summary["methods"], path.with_name(f"{path.stem}_captions")
    others = (entry for entry in methods.values() if entry.get("kind") not in ("greedy", None))
    if not (changed := next((entry for entry in others if entry["n"] == methods["greedy"]["n"]), None)):
        delete_picture(pictured)
    else:
        with picture(pictured, debug, beside(form)) as out:
            greedy, other = (folder / name / RESULT_FILE for name in ("greedy", changed["folder"]))
            draw_caption_examples(greedy, other, image_folder, out, changed["label"])


def in_words(rates: Mapping[str, Mapping]) -> str:
    """How often each head fired; of many the mean and range; of a group the mean over the heads of each draw."""
    if all("rate" in counts for counts in rates.values()):
        if len(rates) > NAMED:
            shares = [100 * counts["rate"] for counts in rates.values()]
            mean = sum(shares) / len(shares)
            return f"{len(rates)} heads, {mean:.1f}% in the mean, {min(shares):.1f}% to {max(shares):.1f}%"
        return ", ".join(f"{head} {100 * counts['rate']:.1f}%" for head, counts in rates.items())
    means = [sum(counts["rate"] for counts in draw.values()) / len(draw) for draw in rates.values()]
    return "mean over the heads of each draw " + ", ".join(f"{100 * mean:.1f}%" for mean in means)


def show_choice(out: Path, summary: dict, recall_loss: float, repeats_rise: float, form: str, debug: bool) -> None:
    """Write choice.json, print the chosen setting and draw the trade-off."""
    content = choice_of(summary, recall_loss, repeats_rise)
    path, chosen = out / "choice.json", content["chosen"]
    write_json(path, content)
    said = f"top {chosen['top_k']} at {chosen['threshold']:g}" if chosen else "none does better"
    say(f"chosen: {said}\n{path}", file=beside(form))
    with picture(out / "choice", debug, beside(form)) as picture_path:
        draw_trade_off(path, picture_path)


def table_of_losses(content: dict) -> Table:
    """The methods' losses, and what their own captions are like."""
    methods = content["methods"]
    captioned = CAPTION_METRICS if any("captions" in entry for entry in methods.values()) else ()
    forms = {"loss": ".3f", "perplexity": ".2f", "difference": "+.4f"}
    heads = ["method", "loss, nats per token", "perplexity", "loss minus greedy"]
    rows = []
    for entry in methods.values():
        known = {key: form for key, form in forms.items() if key in entry}  # greedy decoding has no difference
        cells = [Estimate(entry[key], entry["interval"][key], form=form) for key, form in known.items()]
        cells += [""] * (len(forms) - len(cells))
        rows.append([entry["label"], *cells, *(cell(entry.get("captions", {}), metric) for metric in captioned)])
    note = f"In brackets: 95% bootstrap intervals over {methods['greedy']['n_images']} images."
    heads += [METRICS[metric].head for metric in captioned]
    return Table(heads, rows, note + note_of_left_out(content["settings"]))
