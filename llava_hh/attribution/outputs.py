"""The outputs of heads and modules at predicting positions: reading and editing them, statistics over a data set.

One sample is recorded at a time and leaves sums; the sums of samples, blocks and processes add up.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llava_hh.attention.hooks import is_edited
from llava_hh.attention.modules import attention_modules, decoder_layers
from llava_hh.attribution.replacement import KINDS, OutputStatistics
from llava_hh.files.module_hooks import hooked


@torch.no_grad()
def record_outputs(model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Sequence[int]) -> dict[str, Tensor]:
    """Outputs of all heads, attention modules and MLPs at `positions`, from one plain forward pass over a sample.

    Args:
        inputs: forward arguments of one teacher-forced sample; positions: those that predict the targets.
    Returns:
        heads (position, layer, head, d_head), the o_proj input; mha (position, layer, d_model), the o_proj output; mlp
        (position, layer, d_model): float32 on the CPU.
    Raises:
        ValueError: several samples, a position outside of the sequence, or a model in training mode; a layer without
            an `mlp`, or whose `mlp` doesn't return a tensor; or a model whose heads have different widths.
    """
    check_sample(model, inputs, positions)
    n_heads = model.config.get_text_config().num_attention_heads
    attentions = attention_modules(model)
    where = torch.as_tensor(positions, dtype=torch.long)
    seen: dict[str, dict[int, Tensor]] = {kind: {} for kind in KINDS}

    def keep(layer: int, kind: str, module: nn.Module, args: tuple, output: object) -> None:
        outputs = {kind: tensor_of(module, output)}
        if kind == "mha":
            outputs["heads"] = args[0].unflatten(-1, (n_heads, -1))
        for name, tensor in outputs.items():
            seen[name][layer] = tensor[0, where.to(tensor.device)].float().cpu()

    hooks = [(attention.o_proj, partial(keep, layer, "mha")) for layer, attention in attentions.items()]
    layers = zip(attentions, decoder_layers(model), strict=True)
    hooks += [(mlp_of(decoder_layer), partial(keep, layer, "mlp")) for layer, decoder_layer in layers]
    with hooked(hooks):
        model.base_model(**inputs, use_cache=False)
    for kind, by_layer in seen.items():
        if len({output.shape for output in by_layer.values()}) != 1 or len(by_layer) != len(attentions):
            raise ValueError(f"{kind} outputs of {len(by_layer)} of {len(attentions)} layers, or not all of one width")
    return {kind: torch.stack([by_layer[layer] for layer in attentions], dim=1) for kind, by_layer in seen.items()}


def sums_of(outputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Sums over the positions of what `record_outputs` returned.

    Returns:
        count (1,), int64; for heads, mha and mlp sum_* and square_* of their shapes without the position, float64.
    """
    sums = {"count": np.array([len(outputs["heads"])], dtype=np.int64)}
    for kind in KINDS:
        values = outputs[kind].numpy().astype(np.float64)
        sums[f"sum_{kind}"], sums[f"square_{kind}"] = values.sum(0), np.square(values).sum(0)
    return sums


def add_sums(parts: Iterable[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The sums of all `parts`, added in their order; arrays of other names in a part are ignored.

    Raises:
        ValueError: no parts.
    """
    names = ["count", *(f"{name}_{kind}" for name in ("sum", "square") for kind in KINDS)]
    total: dict[str, np.ndarray] = {}
    for part in parts:
        total = {name: total[name] + part[name] if total else part[name] for name in names}
    if not total:
        raise ValueError("no sums of recorded outputs to add")
    return total


def statistics_of(parts: Iterable[Mapping[str, np.ndarray]]) -> OutputStatistics:
    """Mean and population standard deviation over all positions that went into `parts`, the results of `sums_of`.

    Raises:
        ValueError: they hold no position.
    """
    total = add_sums(parts)
    count = int(total["count"].item())
    if not count:
        raise ValueError("the recorded outputs hold no predicting position; record at least one sample with targets")
    arrays = {}
    for kind in KINDS:
        mean = total[f"sum_{kind}"] / count
        variance = (total[f"square_{kind}"] / count - mean**2).clip(min=0)  # rounding makes a constant's negative
        arrays[f"mean_{kind}"], arrays[f"std_{kind}"] = mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
    return OutputStatistics(**arrays, count=count)


def mlp_of(layer: nn.Module) -> nn.Module:
    """The MLP of a decoder layer.

    Raises:
        ValueError: it has no child of that name.
    """
    children = dict(layer.named_children())
    if "mlp" not in children:
        raise ValueError(f"{type(layer).__name__} has no child named mlp; it has {sorted(children)}")
    return children["mlp"]


@contextmanager
def editing_outputs(edits: Mapping[nn.Module, Callable[[Tensor], None]]) -> Iterator[None]:
    """Let each module's edit change its output, (row, d), in place while the context is open, for one forward pass.

    Raises:
        ValueError: a module's output is not a tensor, or it did not run exactly once.
    """
    runs = dict.fromkeys(edits, 0)

    def edit_output(module: nn.Module, args: tuple, output: object) -> None:
        runs[module] += 1
        output = tensor_of(module, output)
        edits[module](output.view(-1, output.shape[-1]))

    with hooked((module, edit_output) for module in edits):
        yield
    if wrong := [(module, count) for module, count in runs.items() if count != 1]:
        name, count = type(wrong[0][0]).__name__, wrong[0][1]
        raise ValueError(f"{name} ran {count} times in its layer; it can be ablated in one run only")


def tensor_of(module: nn.Module, output: object) -> Tensor:
    """Check that the output of a module is a tensor, and return it.

    Raises:
        ValueError: it isn't (a mixture of experts returns its router's logits too).
    """
    if not isinstance(output, Tensor):
        raise ValueError(f"{type(module).__name__} returns a {type(output).__name__}; only a tensor can be replaced")
    return output


def check_sample(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    positions: Sequence[int],
    target_ids: Sequence[int] | None = None,
) -> None:
    """Check that `inputs` is one sample with all predicting positions inside it, and the model in eval mode.

    With `target_ids`, check too that there is one for each position, each a token of the vocabulary.

    Raises:
        ValueError: several samples, a position outside of the sequence, targets that do not fit, or a model in training
            mode or edited.
    """
    given = [name for name in ("input_ids", "inputs_embeds") if inputs.get(name) is not None]
    if len(given) != 1:
        raise ValueError(f"inputs hold {sorted(inputs)}; exactly one of input_ids and inputs_embeds is needed")
    n_samples, length = inputs[given[0]].shape[:2]
    if n_samples != 1:
        raise ValueError(f"{given[0]} holds {n_samples} samples; one is allowed")
    attended = inputs.get("attention_mask")
    for position in positions:
        if not 0 <= position < length:
            raise ValueError(f"position {position} is outside the sample, which has positions 0 to {length - 1}")
        if attended is not None and attended.ndim == 2 and not attended[0, position]:
            raise ValueError(f"position {position} is padding; positions must be tokens that attention_mask keeps")
    if is_edited(model):
        raise ValueError("the model is edited by an open block of intervene; attribution is of the model as it is")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first, dropout would blur every influence")
    if target_ids is None:
        return
    if len(positions) != len(target_ids):
        raise ValueError(f"{len(positions)} positions but {len(target_ids)} target_ids; one target per position")
    vocabulary = model.config.get_text_config().vocab_size
    if wrong := [target for target in target_ids if not 0 <= target < vocabulary]:
        raise ValueError(f"target id {wrong[0]} is outside the vocabulary, which has ids 0 to {vocabulary - 1}")
