"""The module level: influence of whole attention and MLP modules per layer, from a finished attribution."""

import argparse
from pathlib import Path

import numpy as np

from llava_hh.command_line import errors_in_one_line, script_parser
from llava_hh.figures.module_influence import draw_module_influence
from llava_hh.figures.style import picture
from llava_hh.files import read_result, write_json
from llava_hh.runs import make_folder, processes, provenance


def parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("--attribution", type=Path, required=True, help="attribution_result.json of attribute.py")
    parser.add_argument("--out", type=Path, required=True, help="result folder")
    return parser


def sum_up(modules: dict) -> dict:
    """Sum and largest value over layers of each kind's contrastive influence, and how many layers are above 0.

    A layer is above 0 where its whole 95% interval is.
    """
    summary = {}
    for kind, module in modules.items():
        contrast = np.array(module["contrastive_influence"])
        low = np.array(module["interval"]["contrastive_influence"][0])
        summary[kind] = {
            "sum": float(contrast.sum()),
            "largest": float(contrast.max()),
            "largest_layer": int(contrast.argmax()),
            "n_layers_above_0": int((low > 0).sum()),
            "n_layers": len(contrast),
        }
    return summary


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    with errors_in_one_line(args.debug):
        result = read_result(args.attribution)
        if "modules" not in result:
            raise ValueError(f"--attribution {args.attribution}: no `modules`; expected the result of attribute.py")
        if not processes().is_main:
            return
        make_folder(args.out)
        summary = sum_up(result["modules"])
        path = args.out / "module_influence.json"
        counts = {name: result[name] for name in ("n_hallucinated_words", "n_true_words", "n_captions")}
        write_json(path, {"modules": summary, **counts, "run": provenance()})
    for kind, own in summary.items():
        above = f"{own['n_layers_above_0']} of {own['n_layers']} layers above 0"
        print(f"{kind}: sum {own['sum']:+.3f}, largest {own['largest']:+.3f} in layer {own['largest_layer']}, {above}")
    print(path)
    with picture(args.out / "module_influence", args.debug) as out:
        draw_module_influence(args.attribution, out)


if __name__ == "__main__":
    main()
