"""AllPath's two scores of every head, of the words that attribution looks at.

From text to text: what a head's own term does to a word when it is added to the residual that enters the layer. From
the image to text: how much a head looks at the object that is named.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llava_hh.attention.call import AttentionCall
from llava_hh.attention.hooks import observe
from llava_hh.attention.modules import attention_modules, decoder_layers
from llava_hh.attention.spans import after_last_image
from llava_hh.attribution.direct import gate, has_direct_terms, through
from llava_hh.attribution.outputs import record_outputs
from llava_hh.attribution.run import CaptionAttribution
from llava_hh.attribution.targets import tokens_of_words
from llava_hh.data.coco_shapes import Shapes, touched_cells
from llava_hh.files.module_hooks import hooked
from llava_hh.files.processes import processes
from llava_hh.heads import Head
from llava_hh.models.image_grid import ImageGrid
from llava_hh.models.lvlm import Batch
from llava_hh.runs.blocks import Run
from llava_hh.runs.settings import IMAGES_BY_CONTENT, CaptionedSettings

KEPT, HEADS_OF_7B = 50, 32 * 32  # heads at either end of a ranking, as many as are published of so many; or more
ROWS = 256  # times the vocabulary, at once
BLOCK = 16  # captions whose scores are summed up in one file
KINDS = ("true", "hallucinated")
RANKINGS = ("text", "image")
ASKED = re.compile(r"Is there an? (.+?) in the ")


@dataclass(frozen=True)
class AllpathSettings(CaptionedSettings):
    """What decides AllPath's rankings, sums over all captions; `shapes_sha256` is of where objects are."""

    released: bool
    shapes_sha256: str

    def free(self) -> dict[str, str]:
        return {"image_folder": IMAGES_BY_CONTENT}


@torch.no_grad()
def text_scores(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Sequence[int], ids: Sequence[int]
) -> Tensor:
    """What each head's term adds to the log-probability of each token, (token, layer, head) in nats, on the CPU.

    It is added to what enters the layer, and the vocabulary is taken from that sum without the final norm.

    Args:
        inputs: forward arguments of one teacher-forced sample; positions: those that predict `ids`.
    Raises:
        ValueError: a model whose heads have no term of their own (`has_direct_terms`).
    Source: AllPath's code.
    """
    if not has_direct_terms(model):
        raise ValueError("a norm follows o_proj: a head has no term of its own in the residual")
    entering: list[Tensor] = []

    def keep(_: object, args: tuple, kwargs: dict) -> None:
        entering.append((args[0] if args else kwargs["hidden_states"])[0, list(positions)])

    with hooked([(layer, keep) for layer in decoder_layers(model)], before=True, with_kwargs=True):
        outputs = record_outputs(model, inputs, positions)["heads"]  # token layer head d_head
    say, scores = _in_fp32(model.get_output_embeddings()), []
    layers = decoder_layers(model)
    for number, (layer, attention) in enumerate(attention_modules(model).items()):
        hidden, own = entering[number], outputs[:, layer]
        n_tokens, n_heads, d_head = own.shape
        apart = own.new_zeros(n_tokens, n_heads, n_heads, d_head)
        apart[:, range(n_heads), range(n_heads)] = own
        terms = through(attention.o_proj, apart.flatten(2).to(hidden.device, hidden.dtype)) * gate(layers[number])
        alone = hidden[:, None].float()
        rows = torch.cat([alone, alone + terms.float()], 1)  # token, none and each head, d_model
        logs = _log_probs(say, rows.flatten(0, 1), torch.as_tensor(ids).repeat_interleave(1 + n_heads))
        logs = logs.view(n_tokens, 1 + n_heads)
        scores.append(logs[:, 1:] - logs[:, :1])
    return torch.stack(scores, 1)


def _in_fp32(head: nn.Module) -> Callable[[Tensor], Tensor]:
    """The vocabulary in fp32, for differences that half precision loses; as it is where its weights are elsewhere."""
    if type(head) is nn.Linear and head.weight.device.type != "meta":
        weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()
        return lambda hidden: linear(hidden.to(weight.device), weight, bias)
    return lambda hidden: head(hidden.to(head.weight.dtype)).float()


def _log_probs(say: Callable[[Tensor], Tensor], hidden: Tensor, ids: Tensor) -> Tensor:
    parts = []
    for rows, targets in zip(hidden.split(ROWS), ids.split(ROWS), strict=True):
        logs = say(rows).log_softmax(-1)
        parts.append(logs.gather(1, targets.to(logs.device)[:, None])[:, 0].cpu())
    return torch.cat(parts)


@torch.no_grad()
def image_attention(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], positions: Sequence[int], image: Tensor
) -> Tensor:
    """The attention of every head on each image token, (position, layer, head, image token) fp32, on the CPU.

    Args:
        image: (position,) bool, of the sample.
    """
    n_heads, seen, first = model.config.get_text_config().num_attention_heads, [], min(positions)
    every = [Head(layer, head) for layer in attention_modules(model) for head in range(n_heads)]
    rows = [position - first for position in positions]

    def look(_: int, heads: Tensor, call: AttentionCall) -> None:
        pattern = call.pattern(heads, first)[0][:, rows]
        seen.append(pattern[..., image.to(pattern.device)].transpose(0, 1).cpu())

    with observe(model, every, look):
        model.base_model(**inputs, use_cache=False)
    return torch.stack(seen, 1)


def score_caption(given: CaptionAttribution, entry: dict, shapes: Shapes) -> dict[str, np.ndarray]:
    """Sums over a caption's words by kind, (kind, layer, head), and how many there were, (kind,).

    `text` counts every token of a word, `image` the first mention of each object; a hallucinated one is nowhere, so
    all of the image counts for it.
    """
    targets, positions, batch = given.prepare(entry)
    model, sums = given.lvlm.model, _no_sums(given, len(KINDS))
    token_ids = given.ids_of(entry)
    spans = tokens_of_words(given.lvlm.tokenizer, token_ids, entry["caption"], entry["mentions"])
    tokens = [(int(target.hallucinated), i) for target, span in zip(targets, spans, strict=True) for i in span]
    start = batch.response_start[0]
    scores = text_scores(model, batch.inputs, [start + i - 1 for _, i in tokens], [token_ids[i] for _, i in tokens])
    for (kind, _), score in zip(tokens, scores.double().numpy(), strict=True):
        if np.isfinite(score).all():
            sums["text"][kind] += score
            sums["n_text"][kind] += 1
    if (grid := _grid_of(given, batch)) is None:
        return sums
    looked, named = image_attention(model, batch.inputs, positions, batch.image_mask[0]).double().numpy(), set()
    for target, attention in zip(targets, looked, strict=True):
        outlines = shapes.get(target.node, [])
        if target.node in named or not (target.hallucinated or outlines):
            continue
        named.add(target.node)
        cells = slice(None) if target.hallucinated else touched_cells(outlines, batch.images[0].size, grid)
        sums["image"][int(target.hallucinated)] += attention[..., cells].sum(-1)
        sums["n_image"][int(target.hallucinated)] += 1
    return sums


def score_answer(given: CaptionAttribution, entry: dict, shapes: Shapes) -> dict[str, np.ndarray]:
    """Sums over an answered question, (1, layer, head), and how many there were, (1,).

    `text` is the score of the right one of yes and no less that of the other, where it was answered; `image` how much
    the question's words for the object look at it, in the mean, where it is there.
    """
    [target], [position], batch = given.prepare(entry)
    tokenizer, model, sums = given.lvlm.tokenizer, given.lvlm.model, _no_sums(given, 1)
    [mention] = entry["mentions"]
    said = entry["caption"][mention["start"] : mention["end"]]
    if (other := _other_token(tokenizer, target.token_id, said)) is not None:
        pair = [target.token_id, other][:: -1 if target.hallucinated else 1]  # right, wrong
        right, wrong = text_scores(model, batch.inputs, [position] * 2, pair).double().numpy()
        if np.isfinite(right - wrong).all():
            sums["text"][0] += right - wrong
            sums["n_text"][0] += 1
    found = ASKED.match(entry["prompt"])
    grid, outlines = _grid_of(given, batch), shapes.get(found[1], []) if found else []
    if grid is None or not outlines:
        return sums
    start = batch.response_start[0]
    after = after_last_image(batch.image_mask, start)[0].nonzero().flatten().tolist()
    question = [int(batch.inputs["input_ids"][0, place]) for place in after]
    if entry["prompt"] not in tokenizer.decode(question, skip_special_tokens=True):
        return sums
    where = [{"start": found.start(1), "end": found.end(1)}]
    places = [after[i] for i in tokens_of_words(tokenizer, question, entry["prompt"], where)[0]]
    looked = image_attention(model, batch.inputs, places, batch.image_mask[0]).double().numpy()
    sums["image"][0] += looked[..., touched_cells(outlines, batch.images[0].size, grid)].sum(-1).mean(0)
    sums["n_image"][0] += 1
    return sums


def _other_token(tokenizer: PreTrainedTokenizerBase, token_id: int, said: str) -> int | None:
    """No for Yes and yes for no, in the same case, with a blank before it or without, as the token has it.

    None where either is not one token.
    """
    other = "no" if said.lower() == "yes" else "yes"
    other = other.upper() if said.isupper() else other.capitalize() if said[0].isupper() else other
    for blank in ("", " "):
        pair = [tokenizer(blank + word, add_special_tokens=False).input_ids for word in (said, other)]
        if pair[0] == [token_id] and len(pair[1]) == 1:
            return pair[1][0]
    return None


def _no_sums(given: CaptionAttribution, n_kinds: int) -> dict[str, np.ndarray]:
    size = (n_kinds, given.lvlm.n_layers, given.lvlm.n_heads)
    return {name: np.zeros(size) for name in RANKINGS} | {f"n_{name}": np.zeros(n_kinds) for name in RANKINGS}


def _grid_of(given: CaptionAttribution, batch: Batch) -> ImageGrid | None:
    """The cells of the sample's image tokens; None where each token is not one of them."""
    grid = given.lvlm.image_grid(batch)
    return grid if grid is not None and grid.rows * grid.columns == int(batch.image_mask[0].sum()) else None


def rank_by_allpath(
    given: CaptionAttribution, entries: list[dict], shapes: dict[int, Shapes], run: Run, of_answers: bool
) -> dict | None:
    """AllPath's rankings of all heads, as its method reads them; blocks of `run` keep the sums.

    Args:
        entries: captions, or with `of_answers` questions of POPE; shapes: where objects are, by image.
    Returns: by task, `chair` or `pope`, the rankings `text` and `image` (without the latter where the family's image
        tokens form no grid, or no object is drawn); of each the KEPT highest and lowest heads, of more than 1,024 as
        large a share, the scores of all, and `n`, the tokens or words of each of KINDS, or the questions. Of captions a
        score is the mean over true words less that over hallucinated ones; of answers the mean. None for a process that
        is not the first.
    Source: AllPath's code.
    Differs: words are those of captions with a hallucination, as in our attribution, and first mentions are of an
        object; the code looks at all captions. A crowd, and an instance without polygons, is its box.
    """
    score = score_answer if of_answers else score_caption
    for number, block in run.blocks(entries, BLOCK, "AllPath's scores", given.image_of):
        scored = [score(given, entry, shapes.get(entry["image_id"], {})) for entry in block]
        run.finish_block(number, block, [], of_block={name: sum(each[name] for each in scored) for name in scored[0]})
    if not processes().is_main:
        return None
    totals: dict[str, np.ndarray] = {}
    for arrays in run.finished_arrays():
        totals = {name: totals.get(name, 0) + array for name, array in arrays.items()}
    rankings = {}
    for name in RANKINGS:
        if (counts := totals[f"n_{name}"]).all():
            means = totals[name] / counts[:, None, None]
            scores = means[0] if of_answers else means[0] - means[1]
            rankings[name] = {**_ranked(scores), "n": counts.astype(int).tolist()}
    return {"pope" if of_answers else "chair": rankings}


def _ranked(scores: np.ndarray) -> dict:
    order = np.argsort(-scores, axis=None, kind="stable")
    heads = [[int(part) for part in np.unravel_index(index, scores.shape)] for index in order]
    kept = max(KEPT, math.ceil(KEPT * scores.size / HEADS_OF_7B))
    return {"highest": heads[:kept], "lowest": heads[: -kept - 1 : -1], "scores": scores.round(8).tolist()}
