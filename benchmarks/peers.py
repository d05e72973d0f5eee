"""Influence of every head by the field's libraries and by ours: the same weights, prefix and targets.

An influence is the fall of a target's log-probability, in nats, when a head's output is zeroed where the target is
predicted. nnsight has all heads of a layer as invokes of one trace; TransformerLens has them as the rows of a batch,
with a hook on their outputs. Both read the prefix again for every layer and target. The ways take turns; a turn of
each on one layer warms up. Influences that differ by more than TOLERANCE are an error. A library that is not installed
is left out: pip install -e '.[peers]' brings both.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path

import torch
from attribution import MINI, SPREAD, Case, likeliest, random_case, timed
from measuring import benchmark_parser, finish, ratio, show_ratio
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast

from llava_hh.attribution.ablation import ablate_every_head
from llava_hh.command_line.numbers import SIZE
from llava_hh.files.tables import markdown_table
from llava_hh.models.loading import Loading
from llava_hh.models.lvlm import load_lvlm

TOLERANCE = 1e-4  # nats, in float32
OURS = "llava_hh"
TEXT = (
    "A kitchen has a table in the middle. A cup and a bowl stand on it, beside a knife and a fork. Two chairs are "
    "pushed under the table. Behind them there is an oven, and a refrigerator in the corner. Light falls in from the "
    "left through a window, and a potted plant stands before it. A cat sleeps on one of the chairs, and a dog looks up "
    "at it. Nobody else is there. "
)
Influence = Callable[[Iterable[int]], Tensor]  # from layers to (target, layer, head), nats


def ours(case: Case) -> Influence:
    def influence(layers: Iterable[int]) -> Tensor:
        heads = [(layer, head) for layer in layers for head in range(case.n_heads)]
        found = ablate_every_head(case.model, case.inputs, case.positions, case.target_ids, heads=heads)
        return (found.clean[:, None, None] - found.heads)[:, list(layers)]

    return influence


def by_nnsight(case: Case, folder: Path) -> Influence:
    from nnsight import TransformersModel

    traced = TransformersModel(deepcopy(case.model), tokenizer=tokenizer_in(folder), task="text-generation")
    width = head_width(case)

    def of_layer(ids: Tensor, target: int, layer: int) -> Tensor:
        ablated: list[Tensor] = []
        with torch.no_grad(), traced.trace() as tracer:
            for head in range(case.n_heads):
                with tracer.invoke(ids):
                    z = traced.model.layers[layer].self_attn.o_proj.input
                    z[:, -1, head * width : (head + 1) * width] = 0
                    ablated.append(traced.output.logits[0, -1].float().log_softmax(-1)[target].save())
        return torch.stack(ablated)

    def clean(ids: Tensor, target: int) -> Tensor:
        with torch.no_grad(), traced.trace(ids):
            found = traced.output.logits[0, -1].float().log_softmax(-1)[target].save()
        return found

    return _over_targets(case, clean, of_layer)


def by_transformer_lens(case: Case, folder: Path) -> Influence:
    from transformer_lens.model_bridge import TransformerBridge

    model = deepcopy(case.model)
    model.config.save_pretrained(folder)
    bridge = TransformerBridge.boot_transformers(
        str(folder), hf_model=model, tokenizer=tokenizer_in(folder), device=str(model.device)
    )
    every = range(case.n_heads)

    def zero(z: Tensor, hook: object) -> Tensor:  # row position head d_head; a row for each head
        z[every, -1, every] = 0
        return z

    @torch.no_grad()
    def of_layer(ids: Tensor, target: int, layer: int) -> Tensor:
        rows = ids.repeat(case.n_heads, 1)
        logits = bridge.run_with_hooks(rows, return_type="logits", fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)])
        return logits[:, -1].float().log_softmax(-1)[:, target]

    @torch.no_grad()
    def clean(ids: Tensor, target: int) -> Tensor:
        return bridge(ids, return_type="logits")[0, -1].float().log_softmax(-1)[target]

    return _over_targets(case, clean, of_layer)


def _over_targets(
    case: Case, clean: Callable[[Tensor, int], Tensor], of_layer: Callable[[Tensor, int, int], Tensor]
) -> Influence:
    """Influence by a library that answers for one target and layer at a time.

    Args:
        clean: from the text up to the target and the target to its log-probability.
        of_layer: the same without each head of a layer, (head,).
    """

    def influence(layers: Iterable[int]) -> Tensor:
        rows = []
        for position, target in zip(case.positions, case.target_ids, strict=True):
            ids = case.inputs["input_ids"][:, : position + 1]
            whole = clean(ids, target)
            rows.append(torch.stack([whole - of_layer(ids, target, layer) for layer in layers]))
        return torch.stack(rows).cpu()

    return influence


PEERS = {"nnsight": by_nnsight, "transformer_lens": by_transformer_lens}


def head_width(case: Case) -> int:
    config = case.model.config
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def tokenizer_in(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer of three words: the libraries want one, and token ids are all that they are given."""
    words = WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), **special).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def positions_of(length: int, n_targets: int) -> list[int]:
    """Where targets are predicted: the last position, and others at even distances before it."""
    gap = max(1, length // (2 * n_targets))
    return [length - 1 - gap * number for number in reversed(range(n_targets))]


def language_model_case(path: Path, length: int, n_targets: int) -> Case:
    """The language model of a LLaVA checkpoint and a text about a kitchen."""
    lvlm = load_lvlm(path, Loading("float32"))
    parts = {f"model.{name}": value for name, value in lvlm.model.model.language_model.state_dict().items()}
    model = AutoModelForCausalLM.from_config(lvlm.model.config.get_text_config()).eval()
    model.load_state_dict(parts | {"lm_head.weight": lvlm.model.lm_head.weight})
    text = lvlm.tokenizer(TEXT, add_special_tokens=False).input_ids
    ids, positions = torch.tensor([(text * (length // len(text) + 1))[:length]]), positions_of(length, n_targets)
    name = f"language model of {path.parent.name if path == MINI else path}, {positions[0]}-token prefix"
    return Case(name, model, {"input_ids": ids}, positions, likeliest(model, ids, positions))


def build(name: str, args: argparse.Namespace) -> Case:
    if name == "model":
        return language_model_case(args.model, args.tokens, args.targets)
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=args.width,
        intermediate_size=8 * args.width // 3,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_position_embeddings=args.tokens,
        initializer_range=SPREAD,
    )
    return random_case(config, args.tokens, positions_of(args.tokens, args.targets), "float32")


def measure(case: Case, repeats: int) -> tuple[list[dict], dict[str, str]]:
    """A row for each way, and why others are left out."""
    ways, reasons = {OURS: ours(case)}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, peer in PEERS.items():
            try:
                ways[name] = peer(case, Path(folder))
            except ImportError as error:
                reasons[name] = f"not installed, or another version ({error})"
    for influence in ways.values():
        influence([0])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Tensor] = {}
    layers = range(case.model.config.num_hidden_layers)
    for _ in range(repeats):
        for name, influence in ways.items():
            took, found[name] = timed(lambda influence=influence: influence(layers))
            seconds[name].append(took)
    about = {"case": case.name, "evaluations": found[OURS].numel()}
    return [
        {
            **about,
            "way": name,
            "seconds": own,
            "ratio": ratio(own, seconds[OURS]),
            "max_difference": float((found[name] - found[OURS]).abs().max()),
            "largest_influence": float(found[name].abs().max()),
        }
        for name, own in seconds.items()
    ], reasons


def format_table(rows: list[dict]) -> str:
    header = (
        "case",
        "by",
        "evaluations",
        "seconds",
        "times ours (lowest to highest)",
        "largest difference, of influence",
    )
    lines = [
        (
            row["case"],
            row["way"],
            f"{row['evaluations']:,}",
            f"{statistics.median(row['seconds']):.2f}",
            show_ratio(row["ratio"]),
            f"{row['max_difference']:.1e}, {row['largest_influence']:.2f}",
        )
        for row in rows
    ]
    return markdown_table(header, lines)


def parser() -> argparse.ArgumentParser:
    flags = benchmark_parser(__doc__)
    add = flags.add_argument
    add("--model", type=Path, default=MINI, help="a LLaVA checkpoint folder, whose language model is measured")
    add("--cases", nargs="+", choices=["llama", "model"], default=["llama", "model"])
    add("--tokens", type=SIZE, default=16, help="of the text, whose last position predicts the last target")
    add("--targets", type=SIZE, default=1, help="tokens whose log-probability is asked for")
    add("--layers", type=SIZE, default=8, help="of the random Llama")
    add("--heads", type=SIZE, default=8, help="of each of its layers")
    add("--width", type=SIZE, default=512, help="of its residual stream")
    add("--repeats", type=SIZE, default=2, help="turns of all ways")
    add("--threads", type=SIZE, help="CPU threads; default: torch's")
    return flags


def main(argv: list[str] | None = None) -> None:
    flags = parser()
    args = flags.parse_args(argv)
    if "model" in args.cases and not (args.model / "config.json").is_file():
        flags.error(f"--model {args.model}: no config.json there; a LLaVA checkpoint folder is needed")
    if args.targets > args.tokens:
        flags.error(f"--targets {args.targets}, --tokens {args.tokens}: expected no more targets than tokens")
    if args.width % args.heads:
        flags.error(f"--width {args.width}, --heads {args.heads}: expected a width that the heads share evenly")
    if args.threads:
        torch.set_num_threads(args.threads)
    rows, reasons = [], {}
    for name in args.cases:
        of_case, reasons = measure(build(name, args), args.repeats)
        rows += of_case
    skipped = "".join(f"\n\n{name}: left out, {reason}" for name, reason in reasons.items())
    settings = {name: str(value) for name, value in vars(args).items()}
    finish(format_table(rows) + skipped, {"settings": settings, "rows": rows, "skipped": reasons}, args.json)
    for row in rows:
        if not row["max_difference"] <= TOLERANCE:
            sys.exit(f"{row['case']}: {row['way']} differs by {row['max_difference']:.1e}; expected up to {TOLERANCE}")


if __name__ == "__main__":
    main()
