"""The contrast of a row with its twin, which the model reads in the same forward: what VCD and PAI share."""

import math

import torch
from torch import Tensor


def contrast(clean: Tensor, twin: Tensor, alpha: float, beta: float) -> Tensor:
    """(1 + alpha) clean - alpha twin, and -inf where clean falls below its maximum plus log beta.

    Args:
        clean, twin: logits or log-probabilities (row, vocabulary) of the rows and of their twins.
    """
    cutoff = clean.amax(-1, keepdim=True) + math.log(beta)
    # a suppressed id is -inf in both, and their difference is NaN
    return ((1 + alpha) * clean - alpha * twin).masked_fill(clean < cutoff, -torch.inf)
