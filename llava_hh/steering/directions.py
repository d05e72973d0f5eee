"""VTI's vectors of a model: which way its states change where captions are truthful, and where images are damaged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from llava_hh.attention.modules import decoder_layers, input_device
from llava_hh.attribution.outputs import mlp_of
from llava_hh.decoding.method import CannotDecode
from llava_hh.files.images import load_image
from llava_hh.files.module_hooks import hooked
from llava_hh.files.progress import progress
from llava_hh.models.lvlm import Lvlm
from llava_hh.steering.pairs import Pair
from llava_hh.steering.tower import Tower, damaged, encoder_states, tower_of
from llava_hh.steering.turning import Pull, turning

STEP = 0.1  # of alpha: what is added to a direction of length 1, in VTI's code
ROUNDING = 1e-6  # of the differences' norm; what varies less is rounding


@contextmanager
def steering(
    lvlm: Lvlm, text: np.ndarray | None, alpha_text: float, image: np.ndarray | None, alpha_image: float
) -> Iterator[None]:
    """Turn what all MLPs of the decoder, and of the vision tower, give at every position towards vectors.

    Args:
        text: (layer, d_model); image: (layer, token, width). Where an alpha is 0, its vectors are not looked at.
    Raises:
        CannotDecode: vectors for images are missing, or the vision tower is not like CLIP's.
    """
    pulls: list[tuple[nn.Module, Pull]] = []
    if alpha_image:
        tower = tower_of(lvlm.model)
        if tower is None or image is None:
            why = "no vision tower that reads every image as the same tokens" if tower is None else "no image vectors"
            raise CannotDecode(f"{why}; steer by text alone, alpha_image=0")
        pulls += _pulls(lvlm, tower.layers, image, alpha_image)
    if alpha_text and text is not None:
        pulls += _pulls(lvlm, decoder_layers(lvlm.model), text, alpha_text)
    with turning(pulls):
        yield


def _pulls(
    lvlm: Lvlm, layers: Sequence[nn.Module], vectors: np.ndarray, alpha: float
) -> Iterator[tuple[nn.Module, Pull]]:
    towards = STEP * alpha * normalize(torch.from_numpy(vectors).to(input_device(lvlm.model)), dim=-1)
    for layer, own in zip(layers, towards, strict=True):
        yield mlp_of(layer), lambda x, own=own: own.to(x.device)


def direction_of(differences: np.ndarray) -> np.ndarray:
    """The first principal component of differences (n, ...), of length 1, plus their mean; fp32.

    The component's sign is that in which the difference farthest along it lies on its positive side. It is 0 where
    the differences are all alike.

    Source: VTI's code: PCA with `svd_flip`.
    Differs: of differences that are all alike, the code's component is an arbitrary vector of length 1.
    """
    rows = differences.reshape(len(differences), -1).astype(np.float64)
    mean = rows.mean(0)
    centred = rows - mean
    squares, weights = np.linalg.eigh(centred @ centred.T)  # of the rows, which are fewer than their numbers
    length, weights = np.sqrt(max(squares[-1], 0.0)), weights[:, -1]
    direction = mean
    if length > ROUNDING * np.linalg.norm(rows):
        direction = mean + np.sign(weights[np.abs(weights).argmax()]) * (weights @ centred) / length
    return direction.reshape(differences.shape[1:]).astype(np.float32)


def image_vectors(
    lvlm: Lvlm, tower: Tower, pairs: Sequence[Pair], share: float, n_copies: int, seed: int, batch_size: int
) -> np.ndarray:
    """Which way the vision tower's states change where most of the image is hidden: (layer, token, width).

    Of each image, the mean states of damaged copies less those of the image, tiles averaged; then `direction_of` by
    token, over all layers and what enters them, which is left out after that. The states of all pairs are held: 4 GB
    for 70 pairs of LLaVA-1.5, 37 GB of Gemma 3.

    Args:
        share, n_copies: of `damaged`; seed: of its draws, together with the pair's index; batch_size: images a pass.
    Source: VTI's code.
    Differs: the code reshapes layers, tokens and widths to tokens first, so that its components mix them.
    """
    n_layers, *rest = tower.shape
    differences = np.empty((len(pairs), n_layers + 1, *rest), np.float32)
    for number, pair in enumerate(progress("VTI, images", "image", pairs)):
        batch = lvlm.encode([load_image(pair.image)], [pair.question])
        pixels = batch.inputs["pixel_values"].flatten(0, -4)
        copies = damaged(pixels, tower.patch, share, n_copies, np.random.default_rng([seed, number]))
        states = sum(encoder_states(tower, part).sum(0) for part in copies.split(batch_size)) / len(copies)
        differences[number] = (states - encoder_states(tower, pixels).mean(0)).cpu()
    by_token = [direction_of(differences[:, :, token]) for token in range(tower.n_tokens)]
    return np.ascontiguousarray(np.stack(by_token, 1)[1:])


def text_vectors(lvlm: Lvlm, pairs: Sequence[Pair], batch_size: int) -> np.ndarray:
    """Which way the decoder's states change where a caption is truthful: (layer, d_model).

    Of each pair, the states of the last token of the truthful caption less those of the hallucinated one: what enters
    each layer, and the final norm's output. Then `direction_of` over all of them; what enters the first layer is left
    out after that.

    Args:
        batch_size: captions a pass.
    Raises:
        ValueError: a caption without a token.
    Source: VTI's code.
    """
    differences = []
    per_pass = max(1, batch_size // 2)
    for first in progress("VTI, captions", "batch", range(0, len(pairs), per_pass)):
        some = pairs[first : first + per_pass]
        images = [load_image(pair.image) for pair in some for _ in range(2)]
        answers = [_tokens(lvlm, text) for pair in some for text in (pair.truthful, pair.hallucinated)]
        states = last_states(lvlm, images, [pair.question for pair in some for _ in range(2)], answers)
        alike = torch.tensor([one == other for one, other in zip(answers[::2], answers[1::2], strict=True)])
        differences.append((states[::2] - states[1::2]).masked_fill(alike[:, None, None], 0).numpy())
    return direction_of(np.concatenate(differences))[1:]


def _tokens(lvlm: Lvlm, caption: str) -> list[int]:
    if not (tokens := lvlm.tokenizer(caption.strip(), add_special_tokens=False).input_ids):
        raise ValueError(f"caption {caption!r} has no tokens")
    return tokens


@torch.no_grad()
def last_states(lvlm: Lvlm, images: Sequence, questions: Sequence[str], answers: Sequence[Sequence[int]]) -> Tensor:
    """The states at each row's last position, (row, layer + 1, d_model), fp32 on the CPU; the last one is normed."""
    entering: list[Tensor] = []

    def keep(_: nn.Module, args: tuple, kwargs: dict) -> None:
        entering.append((args[0] if args else kwargs["hidden_states"])[:, -1].float().cpu())

    inputs = dict(lvlm.encode(images, questions, answers).inputs)
    if "position_ids" not in inputs:  # padding takes no positions, so that a batch equals its rows to the last bits
        inputs["position_ids"] = lvlm.model._prepare_position_ids_for_generation(inputs["input_ids"], inputs)
    with hooked([(layer, keep) for layer in decoder_layers(lvlm.model)], before=True, with_kwargs=True):
        last = lvlm.model.base_model(**inputs, use_cache=False).last_hidden_state[:, -1]
    return torch.stack([*entering, last.float().cpu()], 1)
