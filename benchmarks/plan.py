"""How long captioning and attribution would take on GPUs: arithmetic, not a measurement.

Counts the products of a decoder (Llama's shapes; default: LLaVA-1.5-7B) and divides by a GPU's rate. --efficiency is
the share of that rate which plain products reach, assumed; --sweep-share is how much of the rate of plain products
the sweep keeps, measured by attribution.py on this machine's CPU. The loop does one single-token pass per head and
target and is bound by reading the weights; decoding a batch is bound by that or by --step-ms, whichever is more.
"""

import argparse
import math
from dataclasses import dataclass

from llava_hh.command_line.numbers import FACTOR, RATE, SIZE, Number
from llava_hh.command_line.script import ScriptParser
from llava_hh.files.tables import markdown_table

GIGA, TERA = 1e9, 1e12
PART = Number(float, "a fraction above 0, up to 1", lambda value: 0 < value <= 1)


@dataclass(frozen=True)
class Decoder:
    """Sizes of a language model, and what a token costs."""

    layers: int
    heads: int
    width: int
    key_width: int  # of all key heads
    mlp_width: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        attention = 2 * self.width**2 + 2 * self.width * self.key_width
        return attention + 3 * self.width * self.mlp_width

    @property
    def bytes(self) -> int:
        return 2 * (self.layers * self.layer_weights + self.width * self.vocabulary)

    def token_flop(self, layers: float, n_keys: int, with_vocabulary: bool) -> float:
        """Of one token through this many layers, attending to n_keys."""
        own = layers * (2 * self.layer_weights + 4 * n_keys * self.width)
        return own + 2 * self.width * self.vocabulary * with_vocabulary

    def sweep_flop(self, n_keys: int) -> float:
        """Every head of every layer zeroed for one target: one token through its layer and those after it."""
        after = sum(self.layers - layer for layer in range(self.layers)) / self.layers
        rows = self.layers * self.heads
        return rows * self.token_flop(after, n_keys, with_vocabulary=True)


def parser() -> argparse.ArgumentParser:
    flags = ScriptParser(__doc__)
    add = flags.add_argument
    add("--decoder", type=SIZE, nargs=6, default=[32, 32, 4096, 4096, 11008, 32000], metavar="N", help="its sizes")
    add("--captions", type=SIZE, default=3000, help="images that are captioned and attributed")
    add("--gpus", type=SIZE, default=8)
    add("--targets", type=SIZE, default=6, help="object words of a caption")
    add("--prompt-tokens", type=SIZE, default=640, help="image and question")
    add("--caption-tokens", type=SIZE, default=100)
    add("--batch-size", type=SIZE, default=20, help="images of a block: the unit that processes share")
    add("--tflops", type=RATE, default=312, help="a GPU's bfloat16 rate without sparsity; default: A100's data sheet")
    add("--terabytes", type=RATE, default=2.0, help="of memory that a GPU reads in a second; default: A100, 80 GB")
    add("--efficiency", type=PART, default=0.5, help="share of --tflops that plain products reach: assumed")
    add("--sweep-share", type=PART, default=0.7, help="share of plain products' rate that the sweep keeps: measured")
    add("--step-ms", type=FACTOR, default=25, help="least time of a decoding step in transformers: assumed")
    return flags


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    decoder = Decoder(*args.decoder)
    plain = args.efficiency * args.tflops * TERA
    reading = decoder.bytes / (args.terabytes * TERA)
    length = args.prompt_tokens + args.caption_tokens
    prefill = args.prompt_tokens * decoder.token_flop(decoder.layers, args.prompt_tokens // 2, with_vocabulary=False)
    step = max(reading, args.step_ms / 1000)
    forward = length * decoder.token_flop(decoder.layers, length // 2, with_vocabulary=False) / plain
    per_caption = {
        "captioning": prefill / plain + args.caption_tokens * step / args.batch_size,
        "attribution, the sweep": forward + args.targets * decoder.sweep_flop(length) / (plain * args.sweep_share),
        "attribution, one pass per head": forward + args.targets * decoder.layers * decoder.heads * reading,
    }
    blocks = math.ceil(args.captions / args.batch_size)
    on_one = math.ceil(blocks / args.gpus) * args.batch_size  # captions of the process with most blocks
    rows = [
        (name, f"{1000 * own:,.0f} ms", duration(args.captions * own), duration(on_one * own))
        for name, own in per_caption.items()
    ]
    print(markdown_table(["step", "a caption", "1 GPU", f"{args.gpus} GPUs"], rows))
    sweep = decoder.sweep_flop(length) / TERA
    print(f"\nArithmetic: {args.captions:,} captions of {args.targets} targets, {sweep:.1f} TFLOP a target.")


if __name__ == "__main__":
    main()
