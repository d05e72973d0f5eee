"""One Markdown page of the paper's figures: each picture with a sentence of what is seen, from their JSON files."""

import argparse
from collections.abc import Callable
from pathlib import Path

from llava_hh.analysis import findings
from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.runs import processes, read_json, write_text

# title, JSON file under the result folder, sentence, the wrapper that makes it
FIGURES: list[tuple[str, str, Callable[[dict], str], str]] = [
    ("Module level", "train2014/module_influence/module_influence", findings.module_influence, "module_influence"),
    ("Figure 3: attention bias", "train2014/attention_bias/attention_bias", findings.attention_bias, "attention_bias"),
    (
        "Figure 4: attention inheritance",
        "train2014/attention_inheritance/attention_inheritance",
        findings.attention_inheritance,
        "attention_inheritance",
    ),
    (
        "Figure 5: change in instruction tuning",
        "train2014/js_divergence/js_divergence",
        findings.js_divergence,
        "js_div_in_training",
    ),
    (
        "Figure 6a: less attention after the image",
        "val2014/attention_reweight/attention_reweight_after_image",
        findings.attention_reweight,
        "attention_reweight_txt",
    ),
    (
        "Figure 6b: more attention on the image",
        "val2014/attention_reweight/attention_reweight_image",
        findings.attention_reweight,
        "attention_reweight_img",
    ),
]


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("--results", type=Path, required=True, help="result folder of a profile")
    return parser


def page(results: Path) -> str:
    """The page's text; a figure that was not made yet is named with the script that makes it."""
    parts = ["# Figures\n"]
    for title, stem, sentence, wrapper in FIGURES:
        parts.append(f"## {title}\n")
        source = results / f"{stem}.json"
        if source.is_file():
            result = read_json(source)
            try:
                seen = sentence(result)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                made = f"make it again: sh bash_scripts/analysis/{wrapper}.sh"
                raise ValueError(f"{source}: not the form of this figure ({error!r}); {made}") from None
            marks = " Hollow marks: the paper." if "paper" in result else ""
            parts.append(f"![{title}]({stem}.png)\n\n{seen}{marks} Numbers: [{source.name}]({stem}.json)\n")
        else:
            parts.append(f"Not made yet: `sh bash_scripts/analysis/{wrapper}.sh`\n")
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        if not args.results.is_dir():
            raise FileNotFoundError(f"--results {args.results}: no such folder")
        if processes().is_main:
            write_text(args.results / "figures.md", page(args.results))
            print(args.results / "figures.md")


if __name__ == "__main__":
    main()
