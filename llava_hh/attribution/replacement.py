"""What the output of a head or a module becomes when it is ablated: 0, its mean, or itself with noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llava_hh.attribution.sources import Reading

# Heads are slices of the o_proj input, MHA is the o_proj output, MLP the output of `mlp`. Their order seeds the noise.
KINDS = ("heads", "mha", "mlp")


@dataclass(frozen=True)
class OutputStatistics:
    """Mean and population standard deviation of every output over the predicting positions of a data set.

    Arrays are float32, of numpy or torch; `count` is the number of positions.
    """

    mean_heads: np.ndarray | Tensor  # layer head d_head
    std_heads: np.ndarray | Tensor  # layer head d_head
    mean_mha: np.ndarray | Tensor  # layer d_model
    std_mha: np.ndarray | Tensor  # layer d_model
    mean_mlp: np.ndarray | Tensor  # layer d_model
    std_mlp: np.ndarray | Tensor  # layer d_model
    count: int


@dataclass(frozen=True)
class Site:
    """Outputs that are replaced together: those of one kind in one layer, at each of `positions` of a sample."""

    kind: str  # one of KINDS
    layer: int
    positions: tuple[int, ...]
    sample_id: int | None


@dataclass(frozen=True)
class Zero:
    """The output becomes 0.

    Source: the released code, which has no other kind.
    """

    def write(self, output: Tensor, site: Site) -> None:
        """Change `output` in place: (target, head, d_head) for heads, (target, d_model) for a module."""
        output.zero_()


@dataclass(frozen=True)
class Mean:
    """The output becomes its mean over the data set's predicting positions, of the same layer and head.

    Differs: the released code has zeroing only.
    """

    outputs: OutputStatistics

    def write(self, output: Tensor, site: Site) -> None:
        """Change `output` in place: (target, head, d_head) for heads, (target, d_model) for a module."""
        mean = getattr(self.outputs, f"mean_{site.kind}")[site.layer]
        output.copy_(torch.as_tensor(mean, device=output.device))


@dataclass(frozen=True)
class Noise:
    """The output gains sigma * s * eps: s its standard deviation over the data set, per dimension; eps ~ N(0, 1).

    The draw depends on the seed, the sample, the predicting position, the layer and the kind of output alone: not on
    what else is ablated in the same pass, process or block. Two targets of one position share it.

    Raises:
        ValueError: a negative `sigma` or `seed`.
    Differs: the released code has zeroing only.
    """

    outputs: OutputStatistics
    sigma: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sigma >= 0 or self.seed < 0:
            raise ValueError(f"noise with sigma {self.sigma} and seed {self.seed}: neither may be negative")

    def write(self, output: Tensor, site: Site) -> None:
        """Change `output` in place: (target, head, d_head) for heads, (target, d_model) for a module."""
        spread = torch.as_tensor(getattr(self.outputs, f"std_{site.kind}")[site.layer], device=output.device)
        kind = KINDS.index(site.kind)
        eps = np.empty(output.shape, dtype=np.float32)
        for draw, position in zip(eps, site.positions, strict=True):
            rng = np.random.default_rng([self.seed, site.sample_id, position, site.layer, kind])
            draw[:] = rng.standard_normal(draw.shape)
        output.add_(self.sigma * spread * torch.from_numpy(eps).to(output.device))


Replacement = Zero | Mean | Noise


@dataclass(frozen=True)
class Copies:
    """The rows that join a sweep in every layer of `layers`.

    Per target: one for each head, then for each head one for each source of `reading`, then one for MHA, one for MLP.

    lost: filled by a sweep, unless None: by layer, what the heads' outputs lose, (target, head of `heads`, d_head).
    """

    layers: range
    heads: Mapping[int, Sequence[int]]  # which heads are replaced, by layer
    positions: tuple[int, ...]  # of the targets
    modules: bool
    replacement: Replacement
    sample_id: int | None
    reading: Reading | None = None
    lost: dict[int, Tensor] | None = None

    def per_target(self, layer: int) -> int:
        """How many rows of one target join in this layer."""
        return self.n_copies(len(self.heads.get(layer, ())), self.modules, self.reading) if layer in self.layers else 0

    @staticmethod
    def n_copies(n_heads: int, modules: bool, reading: Reading | None) -> int:
        """How many copies of one target a layer has of which `n_heads` heads are replaced."""
        return n_heads * (1 + (len(reading.names) if reading else 0)) + 2 * modules

    def write(self, kind: str, layer: int, output: Tensor, without: Tensor | None = None) -> None:
        """Replace what each copy is to lose, in place.

        Args:
            output: of all rows, the layer's copies last: (row, head, d_head) for heads, (row, d_model) for a module.
            without: of the clean rows, without each source: (source, target, head, d_head).
        """
        per_target, site = self.per_target(layer), Site(kind, layer, self.positions, self.sample_id)
        copies = output[-len(self.positions) * per_target :].unflatten(0, (-1, per_target))  # target copy ...
        if kind == "heads":  # copy i loses the i-th of the heads; so far all copies of a target are alike
            heads = self.heads.get(layer, [])
            whole = copies[:, 0]  # target head d_head
            self.replacement.write(replaced := whole.clone(), site)
            if heads and self.lost is not None:
                self.lost[layer] = (whole - replaced)[:, heads]
            copies[:, range(len(heads)), heads] = replaced[:, heads]
            if without is not None:
                n_sources = len(without)
                rows = range(len(heads), len(heads) * (1 + n_sources))
                of_rows = [head for head in heads for _ in range(n_sources)]
                copies[:, rows, of_rows] = without[:, :, heads].permute(1, 2, 0, 3).flatten(1, 2)
        else:
            self.replacement.write(copies[:, KINDS.index(kind) - len(KINDS)], site)  # target d_model


def check_replacement(
    replacement: Replacement, shapes: Mapping[str, tuple[int, ...]], sample_id: int | None = None
) -> None:
    """Refuse statistics of another model, and noise without a sample to seed it.

    Args:
        shapes: for each kind to replace, the shape of its outputs in all layers, (layer, ...).
    Raises:
        ValueError: shapes of another model, or noise without a sample id.
    """
    if isinstance(replacement, Zero):
        return
    for kind, shape in shapes.items():
        for name in (f"mean_{kind}", f"std_{kind}"):
            given = tuple(getattr(replacement.outputs, name).shape)
            if given != shape:
                raise ValueError(f"{name} has shape {given}, the model's outputs {shape}: recorded on another model?")
    if isinstance(replacement, Noise) and (not isinstance(sample_id, int) or sample_id < 0):
        raise ValueError(f"sample_id is {sample_id!r}; noise is drawn per sample and needs an id of 0 or more")
