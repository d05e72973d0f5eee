"""The course of a targeted fine-tuning: its losses, and where the trained heads look, by step."""

from pathlib import Path

from llava_hh.figures.style import ONE, PAGE, TWO, add_legend, plt, save_figure, whole_ticks
from llava_hh.files.files import read_json_lines

MASSES = "attention mass of the heads\nat answer tokens, fraction"


def draw_finetuning(log: Path, out: Path) -> None:
    """Draw a log.jsonl of a fine-tuning as `out`.png and `out`.pdf."""
    rows = [row for _, row in read_json_lines(log)]
    steps = [row["step"] for row in rows]
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.2), layout="constrained")
    curves = {
        "cross entropy of answers, nats": {"ce": ("", ONE)},
        "attention loss, nats": {"attention_loss": ("", ONE)},
        MASSES: {"image_mass": ("image", ONE), "after_image_mass": ("after the image", TWO)},
    }
    for axis, (name, lines) in zip(axes, curves.items(), strict=True):
        for key, (label, colour) in lines.items():
            axis.plot(steps, [row[key] for row in rows], color=colour, lw=1.2, label=label)
        axis.set(xlabel="step", ylabel=name)
        whole_ticks(axis, "x")
    axes[2].set_ylim(0, 1)
    add_legend(axes[2])
    save_figure(figure, out)
