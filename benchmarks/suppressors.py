"""Which heads of a language model hold back words that were said already, before any tuning.

Two of them are off in half of mini's tuning.

Each head is zeroed in turn while the model reads "The image features a cup and a spoon. There is also a". How much the
log-probability of the two words rises, less how much that of all other categories does: nats, the mean over prompts.
"""

import argparse
import random
from functools import partial
from pathlib import Path

import torch
from measuring import REPO, benchmark_parser, finish
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llava_hh.command_line.numbers import RANDOM_SEED, SIZE
from llava_hh.files.tables import markdown_table
from llava_hh.heads import Head
from llava_hh.mini.talk import article
from llava_hh.mini.tuning import SUPPRESSORS
from llava_hh.mini.world import CATEGORIES
from llava_hh.models.without_code import from_folder


def zeroed(head: int, width: int, _module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    heads = args[0].clone()
    heads[..., head * width : (head + 1) * width] = 0
    return (heads,)


@torch.no_grad()
def suppression(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: int, seed: int) -> Tensor:
    """(layer, head) nats by which a head holds back what was named, beyond what it does to other names."""
    rng = random.Random(seed)
    named = [rng.sample(range(len(CATEGORIES)), 2) for _ in range(prompts)]
    texts = [
        f"The image features {article(CATEGORIES[one])} and {article(CATEGORIES[other])}. There is also a"
        for one, other in named
    ]
    batch = tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
    first_tokens = [tokenizer(f" {name}", add_special_tokens=False).input_ids[0] for name in CATEGORIES]
    is_named = torch.zeros(prompts, len(CATEGORIES), dtype=torch.bool)
    for row, pair in enumerate(named):
        is_named[row, pair] = True

    def expected() -> Tensor:
        logits = model(**batch, logits_to_keep=1).logits[:, -1].log_softmax(-1)[:, first_tokens]
        return logits[is_named].mean() - logits[~is_named].mean()

    whole = expected()
    n_heads, width = model.config.num_attention_heads, model.config.head_dim
    found = torch.zeros(model.config.num_hidden_layers, n_heads)
    for layer, block in enumerate(model.model.layers):
        for head in range(n_heads):
            hook = block.self_attn.o_proj.register_forward_pre_hook(partial(zeroed, head, width))
            found[layer, head] = expected() - whole
            hook.remove()
    return found


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    flags.add_argument("--base", type=Path, default=REPO / "checkpoints" / "mini" / "base", help="the language model")
    flags.add_argument("--prompts", type=SIZE, default=24, help="pairs of categories, drawn at random")
    flags.add_argument("--seed", type=RANDOM_SEED, default=0, help="of the draw")
    return flags


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    model, tokenizer = from_folder(AutoModelForCausalLM, args.base).eval(), from_folder(AutoTokenizer, args.base)
    found = suppression(model, tokenizer, args.prompts, args.seed)
    strongest = [
        {"head": Head(index // found.shape[1], index % found.shape[1]), "nats": float(found.flatten()[index])}
        for index in found.flatten().argsort(descending=True).tolist()[:10]
    ]
    table = markdown_table(
        ["head", "holds back by, nats", "off in half of mini's tuning"],
        [
            [
                f"L{row['head'][0]}H{row['head'][1]}",
                f"{row['nats']:+.3f}",
                "yes" if tuple(row["head"]) in SUPPRESSORS else "",
            ]
            for row in strongest
        ],
    )
    finish(
        table,
        {"strongest": strongest, "heads": found.numel(), "prompts": args.prompts},
        args.json,
        f"{args.prompts} prompts, {found.numel()} heads",
    )


if __name__ == "__main__":
    main()
