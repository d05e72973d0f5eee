"""llava-hh VERB ...: one command for all that the package does."""

import importlib
import sys
from collections.abc import Sequence

from llava_hh.command_line.missing import missing_in_one_line
from llava_hh.files.signals import end_with_wrappers, ending_well, flush_stdout

VERBS = {
    "One image": {
        "explain": "what a model says of an image, with and without AD-HH, and the heads behind each word",
    },
    "Captions and their scores": {
        "caption": "caption images by one method: greedy decoding, AD-HH, another decoder",
        "evaluate": "compare methods on the same images: CHAIR, POPE, or the loss of reference captions",
        "score": "score captions and answers that are there already: CHAIR, AMBER, MME, VQA",
        "compare": "compare finished runs, head lists, seeds, or objects that are hallucinated",
    },
    "Hallucination heads": {
        "attribute": "find the heads: the influence of every head on hallucinated and true object words",
        "finetune": "train the heads to attend less to text (TF-HH)",
        "export": "write AD-HH as a folder that plain transformers loads",
    },
    "Other methods": {
        "prepare-vti": "make the vectors that VTI steers a model by",
    },
    "Figures and pages": {
        "figure": "draw the figures of the paper",
        "report": "write the results of a folder as a page",
    },
    "Checkpoints and set-up": {
        "download": "fetch what a profile needs: weights from the hub, COCO's images and annotations",
        "doctor": "check in under a minute that all is there that a profile needs",
        "contact": "meet a real LLaVA-1.5-7B: what agrees with what is known of it, on a few images",
        "convert": "write an original LLaVA checkpoint in the transformers layout",
        "mini": "make mini: the small model and the drawn scenes that run on any computer",
    },
}
USAGE = """usage: llava-hh VERB [flags]

Find the attention heads that make vision-language models hallucinate objects, and switch them off."""


def overview() -> str:
    """The verbs in groups, a line each."""
    groups = [
        "\n".join([f"{title}:", *(f"  {verb:<11} {line}" for verb, line in verbs.items())])
        for title, verbs in VERBS.items()
    ]
    return "\n\n".join([USAGE, *groups, "llava-hh VERB --help lists the flags of a verb, with an example."])


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the first word says; only its module is imported."""
    verb, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help"):
        flush_stdout(lambda: print(overview()))
    elif verb in (names := [name for verbs in VERBS.values() for name in verbs]):
        with missing_in_one_line(debug="--debug" in rest):
            importlib.import_module(f"llava_hh.scripts.{verb.replace('-', '_')}").main(rest)
    else:
        print(f"error: {verb!r} is no verb of llava-hh; expected one of: {', '.join(names)}", file=sys.stderr)
        raise SystemExit(2)


def program() -> None:
    """The command `llava-hh`."""
    with ending_well():
        end_with_wrappers()
        main()


if __name__ == "__main__":
    sys.argv[0] = "llava-hh"  # what result files keep
    program()
