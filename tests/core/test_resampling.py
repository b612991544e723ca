"""Resampling at seed pixels: the coordinate convention, identity, shifts, flips, borders, labels and refinement."""

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from ovenet_core.resampling import labels_at_seeds, pixel_positions, refine, resample, seed_positions

SIZES = [(2, 2), (5, 7), (8, 6), (16, 24), (33, 3), (1, 9), (9, 1), (1, 1)]
sides = st.integers(2, 9)
numbers = st.integers(0, 999)


def field(height: int, width: int, dx: float, dy: float) -> Tensor:
    """The same offset everywhere, given in pixels."""
    steps = torch.tensor([dx * 2 / max(width - 1, 1), dy * 2 / max(height - 1, 1)], dtype=torch.float64)
    return steps.view(1, 2, 1, 1).expand(1, 2, height, width)


def random_case(height: int, width: int, seed: int, reach: float = 1.0, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Values and offsets of up to `reach` in normalised coordinates, float64."""
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, 3, height, width, generator=rng, dtype=torch.float64)
    offsets = reach * (2 * torch.rand(batch, 2, height, width, generator=rng, dtype=torch.float64) - 1)
    return values, offsets


def resample_at(values: Tensor, offsets: Tensor) -> Tensor:
    return resample(values, seed_positions(offsets))


def test_positions_of_a_two_by_three_grid():
    expected = [[[-1, -1], [0, -1], [1, -1]], [[-1, 1], [0, 1], [1, 1]]]
    assert pixel_positions(2, 3, like=torch.zeros(1)).tolist() == expected


def test_seed_positions_of_golden_grid(shared):
    """`coords_H4_W6` is the authors' grid of pixel positions: what a zero offset gives."""
    golden = load_file(shared / "golden" / "losses.safetensors")["coords_H4_W6"]
    torch.testing.assert_close(seed_positions(torch.zeros(1, 2, 4, 6)), golden, rtol=0, atol=1e-7)


def test_offset_channels_are_x_then_y():
    offsets = torch.zeros(1, 2, 3, 3)
    offsets[0, 0, 1, 1], offsets[0, 1, 1, 1] = 0.25, -0.5
    assert seed_positions(offsets)[0, 1, 1].tolist() == [0.25, -0.5]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("size", [*SIZES, (135, 241)], ids=str)
def test_zero_offset_is_the_identity(size, dtype, tolerance):
    values = random_case(*size, seed=0)[0].to(dtype)
    offsets = torch.zeros(2, 2, *size, dtype=dtype)
    torch.testing.assert_close(resample_at(values, offsets), values, rtol=0, atol=tolerance)


def test_zero_offset_is_not_the_identity_in_the_other_convention():
    """Why the default is corner-aligned: the other convention reads up to half a pixel off."""
    values = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 5, 5)
    seeds = seed_positions(torch.zeros(1, 2, 5, 5), align_corners=False)
    got = resample(values, seeds, align_corners=False)
    torch.testing.assert_close(got[0, 0, 0], torch.tensor([0.0, 0.75, 2.0, 3.25, 4.0]))


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, dx=st.integers(-10, 10), dy=st.integers(-10, 10), seed=numbers)
@example(height=5, width=7, dx=2, dy=-1, seed=0)
def test_integer_pixel_offset_shifts_exactly_and_repeats_the_border(height, width, dx, dy, seed):
    values, _ = random_case(height, width, seed)
    rows = (torch.arange(height) + dy).clamp(0, height - 1)
    columns = (torch.arange(width) + dx).clamp(0, width - 1)
    got = resample_at(values, field(height, width, dx, dy).expand(2, -1, -1, -1))
    torch.testing.assert_close(got, values[:, :, rows][..., columns], rtol=0, atol=1e-12)


def test_half_pixel_offset_is_the_mean_of_the_neighbours():
    values, _ = random_case(4, 6, 0, batch=1)
    got = resample_at(values, field(4, 6, 0.5, 0))
    torch.testing.assert_close(got[..., :-1], (values[..., :-1] + values[..., 1:]) / 2)


def test_offset_of_a_half_reaches_a_quarter_of_the_image():
    """Offsets are in normalised coordinates: the same field means the same share of the image at any size."""
    ramp = torch.linspace(0, 1, 9, dtype=torch.float64).expand(1, 1, 9, 9)
    offsets = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    offsets[:, 0] = 0.5
    torch.testing.assert_close(resample_at(ramp, offsets)[..., :7], ramp[..., :7] + 0.25)


@pytest.mark.parametrize(("axis", "channel"), [(3, 0), (2, 1)], ids=["horizontal", "vertical"])
@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, seed=numbers)
def test_equivariant_to_flips(axis, channel, height, width, seed):
    """Mirrored values and offsets, with dx (dy) negated, give the mirrored result."""
    values, offsets = random_case(height, width, seed)
    mirrored = offsets.flip(axis)
    mirrored[:, channel] *= -1
    got = resample_at(values.flip(axis), mirrored)
    torch.testing.assert_close(got, resample_at(values, offsets).flip(axis), rtol=0, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(height=sides, width=sides, seed=numbers)
def test_seeds_stay_within_the_image(height, width, seed):
    _, offsets = random_case(height, width, seed, reach=5)
    assert seed_positions(offsets).abs().max() <= 1


@pytest.mark.parametrize(
    ("dx", "dy", "row", "column"), [(9, 9, -1, -1), (-9, 9, -1, 0), (9, -9, 0, -1), (-9, -9, 0, 0)]
)
def test_far_offsets_read_the_corner(dx, dy, row, column):
    values, _ = random_case(4, 5, 0, batch=1)
    expected = values[..., row, column][..., None, None].expand_as(values)
    torch.testing.assert_close(resample_at(values, field(4, 5, dx, dy)), expected, rtol=0, atol=1e-12)


def test_gradient_is_zero_where_the_seed_is_clamped():
    offsets = field(4, 5, 9, 9).clone().requires_grad_()
    resample_at(random_case(4, 5, 0, batch=1)[0], offsets).sum().backward()
    assert (offsets.grad == 0).all()


def test_gradcheck_with_respect_to_values_and_offsets():
    """Seeds lie a fifth of a pixel or more from the pixel centres, where bilinear interpolation has no derivative."""
    height, width = 4, 5
    rng = torch.Generator().manual_seed(0)
    extent = torch.tensor([width - 1, height - 1], dtype=torch.float64)
    cell = (torch.rand(2, height, width, 2, generator=rng, dtype=torch.float64) * extent).floor()
    inside = 0.2 + 0.6 * torch.rand(2, height, width, 2, generator=rng, dtype=torch.float64)
    seeds = 2 * (cell + inside) / extent - 1
    offsets = (seeds - pixel_positions(height, width, like=seeds)).permute(0, 3, 1, 2).contiguous().requires_grad_()
    values = random_case(height, width, 1)[0].requires_grad_()
    assert torch.autograd.gradcheck(resample_at, (values, offsets))


def nearest_labels(labels: Tensor, offsets: Tensor) -> Tensor:
    """H(p + o(p)) by comparing the distances from every seed to all pixels."""
    batch, height, width = labels.shape
    result = torch.empty_like(labels)
    for b in range(batch):
        for v in range(height):
            for u in range(width):
                x = min(max(u + float(offsets[b, 0, v, u]) * (width - 1) / 2, 0), width - 1)
                y = min(max(v + float(offsets[b, 1, v, u]) * (height - 1) / 2, 0), height - 1)
                distances = {(j, i): (i - x) ** 2 + (j - y) ** 2 for j in range(height) for i in range(width)}
                result[b, v, u] = labels[(b, *min(distances, key=distances.get))]
    return result


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 7), width=st.integers(1, 7), seed=numbers, reach=st.sampled_from([0.2, 1.0, 3.0]))
def test_label_at_seed_is_that_of_the_nearest_pixel(height, width, seed, reach):
    _, offsets = random_case(height, width, seed, reach)
    labels = torch.arange(2 * height * width).view(2, height, width)  # every pixel its own label
    assert torch.equal(labels_at_seeds(labels, offsets), nearest_labels(labels, offsets))


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), seed=numbers)
def test_label_at_seed_in_the_other_convention_is_torchs_nearest(height, width, seed):
    _, offsets = random_case(height, width, seed)
    labels = torch.arange(2 * height * width).view(2, height, width)
    seeds = seed_positions(offsets, align_corners=False)
    options = {"mode": "nearest", "padding_mode": "border", "align_corners": False}
    expected = nnf.grid_sample(labels[:, None].double(), seeds, **options)
    assert torch.equal(labels_at_seeds(labels, offsets, align_corners=False), expected[:, 0].long())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_at_zero_offset_are_the_labels(size, dtype):
    labels = (torch.arange(2 * size[0] * size[1]) % 256).view(2, *size).to(dtype)
    got = labels_at_seeds(labels, torch.zeros(2, 2, *size))
    assert got.dtype == dtype and torch.equal(got, labels)


@pytest.mark.parametrize("align_corners", [False, True])
def test_nan_offsets_give_some_label_of_the_image_and_leave_the_others(align_corners):
    """So that the loss, which becomes NaN as well, is what stops a training."""
    _, offsets = random_case(4, 5, 0)
    labels = torch.arange(40).view(2, 4, 5)
    expected = labels_at_seeds(labels, offsets, align_corners=align_corners)
    offsets[0, 0, 1, 2] = offsets[1, :, 3, 4] = float("nan")
    got = labels_at_seeds(labels, offsets, align_corners=align_corners)
    assert (got == expected).sum() >= 38 and set(got[0].flatten().tolist()) <= set(range(20))


def test_labels_at_golden_seeds(shared):
    """`conf/match_full`: where a pixel and its seed have the same label; ignored labels are class 0 there."""
    golden = load_file(shared / "golden" / "losses.safetensors")
    labels = golden["labels"].masked_fill(golden["labels"] == 255, 0)
    match = labels == labels_at_seeds(labels, golden["conf/offset_full"], align_corners=False)
    assert torch.equal(match, golden["conf/match_full"][:, 0].bool())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(0, [1, 1, 1, 1, 0]), (1, [2, 2, 2, 1, 0]), (2, [4, 3, 2, 1, 0])],
)
def test_refinement_follows_the_offsets_of_the_seeds(steps, expected):
    """In pixels of a row of five: o = 1, 1, 1, 1, 0, and each step adds the offset found at the seed."""
    offsets = torch.zeros(1, 2, 1, 5, dtype=torch.float64)
    offsets[0, 0, 0] = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0])
    refined = refine(offsets, steps)
    assert (refined[0, 0, 0] / 0.5).tolist() == expected
    assert (refined[0, 1] == 0).all()


def test_refinement_may_exceed_the_largest_offset():
    """The sum is not limited to tau again."""
    offsets = field(3, 9, 2, 0)
    assert refine(offsets, 1)[0, 0, 0, 0] == 2 * offsets.max()
