"""Fusion by confidence (equation 4)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovenet_core.fusion import fuse


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 4, 5, generator=rng, dtype=torch.float64) for _ in range(2))


def test_confidence_zero_gives_the_initial_prediction(pair):
    initial, seed = pair
    assert torch.equal(fuse(initial, seed, torch.zeros(2, 1, 4, 5, dtype=torch.float64)), initial)


def test_confidence_one_gives_the_seed_prediction(pair):
    initial, seed = pair
    assert torch.equal(fuse(initial, seed, torch.ones(2, 1, 4, 5, dtype=torch.float64)), seed)


def test_between_by_hand():
    """Two classes, two pixels: 0.75 * 4 + 0.25 * 8 = 5 and so on; each pixel has its own confidence."""
    initial = torch.tensor([[[[4.0, 1.0]], [[-2.0, 0.0]]]])
    seed = torch.tensor([[[[8.0, 3.0]], [[2.0, 10.0]]]])
    confidence = torch.tensor([[[[0.25, 0.5]]]])
    assert fuse(initial, seed, confidence).tolist() == [[[[5.0, 2.0]], [[-1.0, 5.0]]]]


@settings(max_examples=30, deadline=None)
@given(confidence=st.floats(0, 1), low=st.floats(-9, 9), high=st.floats(-9, 9))
def test_never_leaves_the_range_of_the_two_predictions(confidence, low, high):
    maps = (torch.full((1, 1, 1, 1), v, dtype=torch.float64) for v in (low, high, confidence))
    assert min(low, high) - 1e-12 <= float(fuse(*maps)) <= max(low, high) + 1e-12


def test_gradient_of_the_confidence_is_the_difference_of_the_predictions(pair):
    initial, seed = pair
    confidence = torch.full((2, 1, 4, 5), 0.3, dtype=torch.float64, requires_grad=True)
    fuse(initial, seed, confidence).sum().backward()
    torch.testing.assert_close(confidence.grad, (seed - initial).sum(1, keepdim=True))
