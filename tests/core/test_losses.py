"""The losses: values by hand and by brute force, weights, ignored labels, and gradients computed at once."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ovenet_core import losses
from ovenet_core.cross_entropy import cross_entropy, ohem_cross_entropy
from ovenet_core.layers import upsample
from ovenet_core.losses import LossConfig, LossTerms, OVeNetLoss, confidence_loss, reference_confidence_loss
from ovenet_core.memory import backward_in_forward
from ovenet_core.ovenet import BACKBONES, Logits, Prediction, build
from ovenet_core.utils import ConfigError

CLASSES = 4
WEIGHTS = (0.5, 2.0, 1.0, 3.0)
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def logits_of(probabilities: list[float]) -> Tensor:
    """One row of pixels and two classes: class 0 has these probabilities."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return torch.stack([p, 1 - p]).log().view(1, 2, 1, -1)


def random_case(
    seed: int, ignored: float = 0.2, batch: int = 2, size: tuple[int, int] = (5, 6)
) -> tuple[Tensor, Tensor]:
    """Logits (float64) and labels, a share of them ignored."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(batch, CLASSES, *size, generator=rng, dtype=torch.float64)
    labels = torch.randint(0, CLASSES, (batch, *size), generator=rng)
    return logits, labels.masked_fill(torch.rand(batch, *size, generator=rng) < ignored, 255)


def gradient(loss, logits: Tensor, *arguments) -> Tensor:
    leaf = logits.clone().requires_grad_()
    loss(leaf, *arguments).backward()
    return leaf.grad


# Cross-entropy


def test_cross_entropy_by_hand():
    """The mean of -log 0.5 and -log 0.8; the third pixel is ignored."""
    got = cross_entropy(logits_of([0.5, 0.2, 0.1]), torch.tensor([[[0, 1, 255]]]))
    assert got.item() == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2)


def test_weighted_cross_entropy_by_hand():
    """Weighted by class 3 and 1, and divided by the sum of the weights."""
    weights = torch.tensor([3.0, 1.0], dtype=torch.float64)
    got = cross_entropy(logits_of([0.5, 0.2, 0.1]), torch.tensor([[[0, 1, 255]]]), weights)
    assert got.item() == pytest.approx(-(3 * math.log(0.5) + math.log(0.8)) / 4)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_torchs_where_pixels_are_valid(weights):
    logits, labels = random_case(0)
    weights = weights and torch.tensor(weights, dtype=torch.float64)
    expected = nnf.cross_entropy(logits, labels, weights, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels, weights), expected)


def test_cross_entropy_of_classes_with_weight_zero_is_zero():
    logits, labels = random_case(0)
    assert cross_entropy(logits, labels, torch.zeros(CLASSES, dtype=torch.float64)) == 0


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_labels_may_be_bytes(loss):
    logits, labels = random_case(0)
    assert loss(logits, labels.to(torch.uint8)) == loss(logits, labels)


# OHEM


def brute_force_ohem(logits: Tensor, labels: Tensor, weights: Tensor | None, threshold: float, min_kept: int) -> Tensor:
    """By sorting: keep the probabilities below max(threshold, sorted[min(min_kept, n - 1)])."""
    log_p = logits.log_softmax(1).permute(0, 2, 3, 1).flatten(0, 2)
    pixels = [(row[label], label) for row, label in zip(log_p, labels.flatten().tolist(), strict=True) if label != 255]
    ordered = sorted(p.exp().item() for p, _ in pixels)
    limit = max(threshold, ordered[min(min_kept, len(ordered) - 1)]) if ordered else threshold
    kept = [-p * (1 if weights is None else weights[label]) for p, label in pixels if p.exp().item() < limit]
    return torch.stack(kept).mean() if kept else (logits * 0).sum()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    threshold=st.sampled_from([0.0, 0.05, 0.3, 0.7, 0.9, 1.0]),
    min_kept=st.sampled_from([0, 1, 2, 5, 11, 12, 40]),
    weighted=st.booleans(),
)
def test_ohem_equals_brute_force_by_sorting(seed, ignored, threshold, min_kept, weighted):
    """In value and gradient; 12 pixels, so that `min_kept` is below, at and above their number."""
    logits, labels = random_case(seed, ignored, batch=2, size=(2, 3))
    arguments = (labels, torch.tensor(WEIGHTS, dtype=torch.float64) if weighted else None, threshold, min_kept)
    torch.testing.assert_close(ohem_cross_entropy(logits, *arguments), brute_force_ohem(logits, *arguments))
    torch.testing.assert_close(
        gradient(ohem_cross_entropy, logits, *arguments), gradient(brute_force_ohem, logits, *arguments)
    )


def row_ohem(probabilities: list[float], **options) -> float:
    """OHEM of one row of pixels of class 0."""
    labels = torch.zeros(1, 1, len(probabilities), dtype=torch.int64)
    return ohem_cross_entropy(logits_of(probabilities), labels, **options).item()


def mean_nll(*probabilities: float) -> float:
    return -sum(map(math.log, probabilities)) / len(probabilities)


ROW = [0.1, 0.95, 0.3, 0.6, 0.8]


@pytest.mark.parametrize(
    ("threshold", "min_kept", "kept"),
    [
        (0.7, 0, (0.1, 0.3, 0.6)),  # the threshold decides
        (0.7, 2, (0.1, 0.3, 0.6)),
        (0.2, 2, (0.1, 0.3)),  # too few are below it: those below the probability of rank 2, from 0
        (0.2, 3, (0.1, 0.3, 0.6)),
        (0.2, 4, (0.1, 0.3, 0.6, 0.8)),
        (0.2, 5, (0.1, 0.3, 0.6, 0.8)),  # more than there are: all but the largest
        (0.2, 131072, (0.1, 0.3, 0.6, 0.8)),
        (0.99, 131072, tuple(ROW)),
    ],
)
def test_ohem_by_hand(threshold, min_kept, kept):
    assert row_ohem(ROW, threshold=threshold, min_kept=min_kept) == pytest.approx(mean_nll(*kept))


def test_ohem_drops_all_pixels_tied_with_the_limit():
    """Sorted: 0.1, 0.5, 0.5, 0.5; rank 2 is 0.5, and only what is strictly below it is kept."""
    assert row_ohem([0.5, 0.1, 0.5, 0.5], threshold=0.2, min_kept=2) == pytest.approx(mean_nll(0.1))


def test_ohem_keeps_ties_below_the_threshold():
    assert row_ohem([0.5, 0.1, 0.5, 0.5], threshold=0.7, min_kept=1) == pytest.approx(mean_nll(0.1, 0.5, 0.5, 0.5))


def test_ohem_is_zero_without_nan_where_no_pixel_is_kept():
    """All are equal and above the threshold."""
    logits, labels = logits_of([0.95] * 4), torch.zeros(1, 1, 4, dtype=torch.int64)
    assert ohem_cross_entropy(logits, labels) == 0
    assert (gradient(ohem_cross_entropy, logits, labels) == 0).all()


def test_class_weights_of_ohem_weigh_the_loss_and_not_the_count():
    """Class 0 weighs 3, class 1 weighs 1; two pixels are kept."""
    logits, labels = logits_of([0.5, 0.2]), torch.tensor([[[0, 1]]])
    got = ohem_cross_entropy(logits, labels, torch.tensor([3.0, 1.0], dtype=torch.float64), threshold=0.9, min_kept=0)
    assert got.item() == pytest.approx(-(3 * math.log(0.5) + math.log(0.8)) / 2)


def test_class_weights_do_not_decide_which_pixels_are_hard():
    """The easy pixel stays out however much its class weighs."""
    logits, labels = logits_of([0.5, 0.05]), torch.tensor([[[0, 1]]])
    got = ohem_cross_entropy(logits, labels, torch.tensor([1.0, 99.0], dtype=torch.float64), threshold=0.9, min_kept=0)
    assert got.item() == pytest.approx(-math.log(0.5))


# The confidence loss


def brute_force_confidence(confidence_logits: Tensor, offsets: Tensor, labels: Tensor) -> float:
    """Equation 6 pixel by pixel; the seed is the nearest pixel."""
    _, height, width = labels.shape
    terms = []
    for b, v, u in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        x = min(max(u + float(offsets[b, 0, v, u]) * (width - 1) / 2, 0), width - 1)
        y = min(max(v + float(offsets[b, 1, v, u]) * (height - 1) / 2, 0), height - 1)
        own, seed = int(labels[b, v, u]), int(labels[b, round(y), round(x)])
        f = 1 / (1 + math.exp(-float(confidence_logits[b, 0, v, u])))
        if own != 255 and seed != 255:
            terms.append(-math.log(f) if own == seed else -math.log(1 - f))
    return sum(terms) / max(len(terms), 1)


def confidence_case(seed: int, ignored: float) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    _, labels = random_case(seed, ignored)
    confidence_logits = 3 * torch.randn(2, 1, 5, 6, generator=rng, dtype=torch.float64)
    return confidence_logits, 2 * torch.rand(2, 2, 5, 6, generator=rng, dtype=torch.float64) - 1, labels


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), ignored=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_confidence_loss_equals_brute_force(seed, ignored):
    case = confidence_case(seed, ignored)
    assert confidence_loss(*case).item() == pytest.approx(brute_force_confidence(*case), rel=1e-9, abs=1e-12)


def test_confidence_loss_by_hand():
    """Four pixels in a row look one to the right: labels 1 1 2 255, so same, other, ignored, ignored."""
    offsets = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
    offsets[:, 0] = 2 / 3
    confidence = torch.tensor([0.9, 0.2, 0.5, 0.5], dtype=torch.float64).view(1, 1, 1, 4)
    got = confidence_loss(confidence.logit(), offsets, torch.tensor([[[1, 1, 2, 255]]]))
    assert got.item() == pytest.approx(-(math.log(0.9) + math.log(0.8)) / 2)


@pytest.mark.parametrize("loss", [confidence_loss, reference_confidence_loss])
def test_confidence_loss_gives_the_offsets_no_gradient(loss):
    confidence, offsets, labels = confidence_case(0, 0.2)
    if loss is reference_confidence_loss:
        confidence = confidence.sigmoid()
    confidence.requires_grad_()
    offsets.requires_grad_()
    to_confidence, to_offsets = torch.autograd.grad(
        loss(confidence, offsets, labels), (confidence, offsets), allow_unused=True
    )
    assert to_confidence.any() and to_offsets is None


def test_gradient_of_the_confidence_is_zero_at_ignored_pixels():
    confidence, offsets, labels = confidence_case(0, 0.4)
    confidence.requires_grad_()
    confidence_loss(confidence, offsets, labels).backward()
    assert (confidence.grad[:, 0][labels == 255] == 0).all()


def test_gradient_of_a_saturated_confidence_is_its_error():
    """In float32 the sigmoid of 20 rounds to 1, yet a wrong pixel pulls with its full weight, and no more."""
    rng = torch.Generator().manual_seed(0)
    logits = (14 + 6 * torch.rand(1, 1, 6, 8, generator=rng)).requires_grad_()
    offsets = torch.zeros(1, 2, 21, 29)
    offsets[:, 0] = 2.0  # all pixels but those of the last column look at the last column, which has another label
    labels = torch.zeros(1, 21, 29, dtype=torch.int64)
    labels[..., -1] = 1
    confidence_loss(upsample(logits, (21, 29), True), offsets, labels).backward()
    assert logits.grad.sum().item() == pytest.approx(28 / 29, rel=1e-4)
    assert logits.grad.min() >= -1e-6


def test_reference_confidence_loss_by_hand():
    """Summed over the batch and divided by the pixels of one image; an ignored label is class 0."""
    confidence = torch.tensor([[0.9, 0.2], [0.6, 0.5]], dtype=torch.float64).view(2, 1, 1, 2)
    offsets = torch.zeros(2, 2, 1, 2, dtype=torch.float64)
    offsets[:, 0] = 2.0
    got = reference_confidence_loss(confidence, offsets, torch.tensor([[[0, 255]], [[1, 2]]]), align_corners=True)
    agreement = [0.9, 0.2, 1 - 0.6, 0.5]
    assert got.item() == pytest.approx(-sum(math.log(a + 1e-7) for a in agreement) / 2)


# The total


def leaf_prediction(with_ocr: bool, seed: int = 0, align_corners: bool = True) -> tuple[Prediction, list[Tensor]]:
    """A prediction of random leaves at half the resolution of the labels of `random_case`, and the leaves."""
    rng = torch.Generator().manual_seed(seed)

    def leaf(channels: int) -> Tensor:
        return torch.randn(2, channels, 3, 3, generator=rng, dtype=torch.float64)

    maps = [leaf(CLASSES).requires_grad_() for _ in range(6 if with_ocr else 3)]
    logits = [Logits(maps[i], maps[i + 3] if with_ocr else None) for i in range(3)]
    offsets, confidence_logits = leaf(2).tanh().requires_grad_(), leaf(1).requires_grad_()
    return Prediction(*logits, offsets, confidence_logits, align_corners), [*maps, offsets, confidence_logits]


WITH_OCR = pytest.mark.parametrize("with_ocr", [False, True])


@WITH_OCR
@pytest.mark.parametrize("align_corners", [False, True])
def test_terms_are_the_losses_of_the_upsampled_maps(with_ocr, align_corners):
    """OHEM of the main logits, plain cross-entropy of the auxiliary ones, in the network's resize convention."""
    prediction, _ = leaf_prediction(with_ocr, align_corners=align_corners)
    _, labels = random_case(0)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    loss = OVeNetLoss(ohem_threshold=0.3, ohem_min_kept=20, auxiliary_weight=0.7, class_weights=WEIGHTS).double()
    terms = loss(prediction, labels)
    for output, got in (("initial", terms.initial), ("seed", terms.seed), ("fused", terms.fused)):
        logits = getattr(prediction, output)
        expected = ohem_cross_entropy(upsample(logits.main, (5, 6), align_corners), labels, weights, 0.3, 20)
        if with_ocr:
            expected = expected + 0.7 * cross_entropy(
                upsample(logits.auxiliary, (5, 6), align_corners), labels, weights
            )
        torch.testing.assert_close(got, expected)
    upsampled = [upsample(x, (5, 6), align_corners) for x in (prediction.confidence_logits, prediction.offsets)]
    torch.testing.assert_close(terms.confidence, confidence_loss(*upsampled, labels))


def test_plain_cross_entropy_is_a_switch():
    prediction, _ = leaf_prediction(False)
    _, labels = random_case(0)
    expected = cross_entropy(upsample(prediction.initial.main, (5, 6), True), labels)
    torch.testing.assert_close(OVeNetLoss(ohem=False)(prediction, labels).initial, expected)


@WITH_OCR
@settings(max_examples=10, deadline=None)
@given(kappa=st.floats(0, 2), lambda_=st.floats(0, 2))
def test_total_weighs_the_terms_as_equations_5_and_7_say(with_ocr, kappa, lambda_):
    prediction, _ = leaf_prediction(with_ocr)
    terms = OVeNetLoss(kappa=kappa, lambda_=lambda_, ohem_min_kept=20)(prediction, random_case(0)[1])
    expected = terms.fused + kappa * terms.seed + lambda_ * terms.initial + terms.confidence
    torch.testing.assert_close(terms.total, expected)


def test_weights_are_those_of_the_paper_by_default():
    """kappa = lambda = 0.5 (section 4.1), auxiliary 0.4, OHEM with threshold 0.9 and 131072 pixels."""
    config = OVeNetLoss().config
    assert (config.kappa, config.lambda_, config.auxiliary_weight) == (0.5, 0.5, 0.4)
    assert (config.ohem, config.ohem_threshold, config.ohem_min_kept) == (True, 0.9, 131072)
    assert config.class_weights is None


def test_confidence_loss_can_be_left_out():
    terms = OVeNetLoss(confidence_loss=False, ohem_min_kept=20)(leaf_prediction(False)[0], random_case(0)[1])
    assert terms.confidence is None
    torch.testing.assert_close(terms.total, terms.fused + 0.5 * terms.seed + 0.5 * terms.initial)


@WITH_OCR
def test_total_of_a_baseline_is_the_loss_of_its_own_prediction(with_ocr):
    prediction, _ = leaf_prediction(with_ocr)
    _, labels = random_case(0)
    loss = OVeNetLoss(ohem_min_kept=20)
    terms = loss(Prediction(prediction.initial, align_corners=True), labels)
    assert terms.total == terms.initial == loss(prediction, labels).initial
    assert terms.seed is terms.fused is terms.confidence is None


def test_terms_are_listed_as_numbers():
    terms = LossTerms(torch.tensor(3.0, requires_grad=True), torch.tensor(1.0), seed=torch.tensor(2.0))
    assert dict(terms.items()) == {"total": 3.0, "initial": 1.0, "seed": 2.0}


# Gradients at once


def test_gradient_at_once_is_that_of_the_loss_times_what_comes_from_above():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (7 * backward_in_forward(lambda v: v.pow(3).sum(), x * 2)).backward()
    torch.testing.assert_close(x.grad, 7 * 3 * (2 * x.detach()) ** 2 * 2)


def test_at_once_leaves_a_constant_without_a_gradient():
    x = torch.ones(1, 2, 3, 4)
    assert not backward_in_forward(lambda v: v.sum(), x).requires_grad


@WITH_OCR
@pytest.mark.parametrize("ohem", [False, True])
def test_gradients_of_the_total_equal_plain_autograd(with_ocr, ohem, monkeypatch):
    """With respect to every map, the offsets and the confidence."""
    _, labels = random_case(0)
    gradients = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(losses, "backward_in_forward", lambda loss, logits: loss(logits))
        prediction, leaves = leaf_prediction(with_ocr)
        total = OVeNetLoss(ohem=ohem, ohem_min_kept=20, class_weights=WEIGHTS).double()(prediction, labels).total
        gradients.append(torch.autograd.grad(total, leaves, allow_unused=True))
    assert gradients[0][-1].any()
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-14)


def kept_for_the_backward_pass(node, seen: set) -> list[Tensor]:
    """All tensors that the graph before `node` holds."""
    if node is None or node in seen:
        return []
    seen.add(node)
    saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    tensors = [x for x in [*saved, *getattr(node, "saved_tensors", ())] if isinstance(x, Tensor)]
    return tensors + [x for before, _ in node.next_functions for x in kept_for_the_backward_pass(before, seen)]


@WITH_OCR
def test_only_small_maps_are_kept_for_the_backward_pass(with_ocr):
    """Of the semantic losses: the gradients at the resolution of the output, nothing at that of the labels."""
    prediction, _ = leaf_prediction(with_ocr)
    labels = torch.zeros(2, 50, 60, dtype=torch.int64)
    total = OVeNetLoss(confidence_loss=False)(prediction, labels).total
    kept = kept_for_the_backward_pass(total.grad_fn, set())
    assert {x.shape for x in kept if x.dim()} == {prediction.initial.main.shape}


# What must not be hidden


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_nan_in_the_logits_of_a_valid_pixel_reaches_the_loss(loss, weighted):
    """Training stops at it; a pixel that OHEM leaves out is no hiding place."""
    logits, labels = random_case(0, ignored=0)
    logits[1, 2, 3, 4] = math.nan
    assert loss(logits, labels, torch.tensor(WEIGHTS, dtype=torch.float64) if weighted else None).isnan()


@pytest.mark.parametrize("with_confidence", [False, True])
def test_nan_in_an_offset_reaches_the_loss(with_confidence):
    """Resampling reads a seed of NaN as -1."""
    prediction, leaves = leaf_prediction(False)
    with torch.no_grad():
        leaves[-2][1, 0, 2, 1] = math.nan
    terms = OVeNetLoss(confidence_loss=with_confidence)(prediction, random_case(0)[1])
    assert terms.total.isnan() and terms.seed.isnan() and terms.initial.isfinite()


# Wrong numbers of class weights


@pytest.mark.parametrize("count", [CLASSES - 1, CLASSES + 1])
@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_class_weights_of_another_number_than_the_classes_are_refused(loss, count):
    with pytest.raises(ConfigError) as caught:
        loss(*random_case(0), torch.ones(count, dtype=torch.float64))
    assert caught.value.where == "class_weights"
    assert str(count) in caught.value.found and str(CLASSES) in caught.value.expected


# No valid pixel


def all_ignored(*size: int) -> Tensor:
    return torch.full(size, 255)


@DTYPES
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_loss_and_gradient_of_an_ignored_batch_are_zero(loss, weighted, dtype):
    logits = random_case(0)[0].to(dtype)
    arguments = (all_ignored(2, 5, 6), torch.tensor(WEIGHTS, dtype=dtype) if weighted else None)
    assert loss(logits, *arguments) == 0
    assert (gradient(loss, logits, *arguments) == 0).all()


@DTYPES
def test_confidence_loss_and_gradient_of_an_ignored_batch_are_zero(dtype):
    confidence, offsets, _ = (x.to(dtype) for x in confidence_case(0, 0))
    labels = all_ignored(2, 5, 6)
    assert confidence_loss(confidence, offsets, labels) == 0
    assert (gradient(confidence_loss, confidence, offsets, labels) == 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_ignored_image_beside_another_does_not_count(loss):
    logits, labels = random_case(0)
    labels[1] = 255
    torch.testing.assert_close(loss(logits, labels), loss(logits[:1], labels[:1]))
    assert (gradient(loss, logits, labels)[1] == 0).all()


def test_confidence_loss_of_an_ignored_image_beside_another_does_not_count():
    case = confidence_case(0, 0.2)
    case[2][1] = 255
    torch.testing.assert_close(confidence_loss(*case), confidence_loss(*(x[:1] for x in case)))


@DTYPES
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("ohem", [False, True])
def test_total_of_an_ignored_batch_is_zero_for_a_whole_network(backbone, ohem, dtype):
    """All terms 0, all gradients 0, no NaN."""
    torch.manual_seed(0)
    network = build(CLASSES, backbone=backbone, width=8, blocks=1, ocr_channels=32, ocr_key_channels=16).to(dtype)
    terms = OVeNetLoss(ohem=ohem)(network(torch.randn(2, 3, 64, 64, dtype=dtype)), all_ignored(2, 64, 64))
    terms.total.backward()
    assert set(dict(terms.items()).values()) == {0.0}
    assert all((p.grad == 0).all() for p in network.parameters())


def four_images(with_ocr: bool = False) -> tuple[Prediction, Tensor]:
    """Two predictions of `leaf_prediction` as one, and labels of four images with unlike shares of ignored pixels."""
    pairs = [leaf_prediction(with_ocr, seed)[0] for seed in (0, 1)]

    def stack(name: str) -> Any:
        values = [getattr(pair, name) for pair in pairs]
        if not isinstance(values[0], Logits):
            return torch.cat(values)
        return values[0].map(lambda x, y: torch.cat([x, y]), values[1])

    names = ("initial", "seed", "fused", "offsets", "confidence_logits")
    labels = torch.cat([random_case(seed, ignored)[1] for seed, ignored in ((0, 0.1), (1, 0.7))])
    return Prediction(**{name: stack(name) for name in names}, align_corners=True), labels


@WITH_OCR
@pytest.mark.parametrize("together", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("reference", [False, True])
def test_images_counted_together_are_groups_with_losses_of_their_own(with_ocr, together, reference):
    """Each group counts as many times as it has images; the last may have fewer."""
    prediction, labels = four_images(with_ocr)
    fields = {"ohem_threshold": 0.3, "ohem_min_kept": 25, "reference_loss": reference}
    got = dict(OVeNetLoss(images_counted_together=together, **fields).double()(prediction, labels).items())
    expected: dict[str, float] = {}
    for first in range(0, 4, together):
        part = slice(first, first + together)
        terms = OVeNetLoss(**fields).double()(prediction.of_images(part), labels[part])
        for name, value in terms.items():
            expected[name] = expected.get(name, 0) + value * len(labels[part]) / 4
    assert got == pytest.approx(expected, rel=1e-12)
    whole = dict(OVeNetLoss(**fields).double()(prediction, labels).items())
    assert (got == pytest.approx(whole, rel=1e-9)) == (together >= 4)


@pytest.mark.parametrize("images", [1, 2, 4])
def test_ohem_keeps_so_many_pixels_of_each_image(images):
    prediction, labels = four_images()
    prediction, labels = prediction.of_images(slice(images)), labels[:images]
    per_image = OVeNetLoss(ohem_threshold=0.05, ohem_min_kept_per_image=7).double()(prediction, labels)
    together = OVeNetLoss(ohem_threshold=0.05, ohem_min_kept=7 * images).double()(prediction, labels)
    assert dict(per_image.items()) == dict(together.items())
    other = OVeNetLoss(ohem_threshold=0.05, ohem_min_kept=7 * images + 3).double()(prediction, labels)
    assert dict(other.items()) != dict(together.items())


def test_two_numbers_for_ohem_are_refused():
    with pytest.raises(ConfigError) as caught:
        LossConfig(ohem_min_kept=1000, ohem_min_kept_per_image=500)
    assert (caught.value.where, caught.value.expected) == ("ohem_min_kept_per_image", "null beside ohem_min_kept 1000")


@pytest.mark.parametrize("reference", [False, True])
def test_the_confidence_loss_has_its_weight(reference):
    prediction, labels = four_images()
    once, thrice = (
        OVeNetLoss(confidence_weight=weight, reference_loss=reference).double()(prediction, labels)
        for weight in (1.0, 3.0)
    )
    assert once.confidence.item() == thrice.confidence.item()
    assert (thrice.total - once.total).item() == pytest.approx(2 * once.confidence.item())


def test_the_reference_confidence_loss_of_two_images_weighs_twice_its_mean():
    """A sum over the images of a process, of which there are two: the weight 2 of the published configurations."""
    prediction, labels = four_images()
    prediction, labels = prediction.of_images(slice(2)), labels[:2]
    loss = OVeNetLoss(reference_loss=True, confidence_weight=2.0).double()
    maps = (upsample(x, labels.shape[-2:], False) for x in (prediction.confidence, prediction.offsets))
    theirs = reference_confidence_loss(*maps, labels, align_corners=True)
    assert 2 * loss(prediction, labels).confidence.item() == pytest.approx(theirs.item(), rel=1e-12)


@pytest.mark.parametrize("reference", [False, True])
def test_ignored_batch_gives_numbers_in_either_loss(reference):
    """In the reference loss ignored labels count as class 0 in the confidence loss: finite, but not 0."""
    prediction, leaves = leaf_prediction(True)
    total = OVeNetLoss(ohem=False, reference_loss=reference)(prediction, all_ignored(2, 5, 6)).total
    assert total.isfinite()
    assert all(g is None or g.isfinite().all() for g in torch.autograd.grad(total, leaves, allow_unused=True))
