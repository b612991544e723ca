"""Adaptive fusion of the initial and the seed-based prediction (equation 4)."""

from jaxtyping import Float
from torch import Tensor


def fuse(
    initial: Float[Tensor, "batch classes height width"],
    seed: Float[Tensor, "batch classes height width"],
    confidence: Float[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch classes height width"]:
    """(1 - F) * initial + F * seed, with the confidence F in [0, 1] at each pixel."""
    return (1 - confidence) * initial + confidence * seed
