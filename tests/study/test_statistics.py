"""Scores, paired differences and intervals: against brute force, known distributions and another package."""

import numpy as np
import pytest
from arch.bootstrap import CircularBlockBootstrap
from class_counts import counted, images

from ovenet_core.study.statistics import (
    Estimate,
    accuracy,
    block_bootstrap_weights,
    interval_hull,
    iou_percent,
    miou,
    paired_difference,
    share_of_gains,
    t_interval,
)


def test_scores_of_a_confusion_matrix_computed_by_hand():
    confusion = counted(np.array([[[8, 2, 0], [1, 9, 0], [0, 0, 0]]], float))
    assert iou_percent(confusion)[0] == pytest.approx([100 * 8 / 11, 75, np.nan], nan_ok=True)
    assert miou(confusion) == pytest.approx([(100 * 8 / 11 + 75) / 2])
    assert accuracy(confusion) == pytest.approx([85])


def test_share_of_gains_leaves_out_classes_that_do_not_occur_or_do_not_differ():
    gains = np.array([[1, -1, 2, np.nan], [0, 0, 3, -1], [0, 0, 0, np.nan]])
    assert share_of_gains(gains) == pytest.approx([200 / 3, 50, np.nan], nan_ok=True)


def test_the_difference_is_that_of_the_sums_over_all_images():
    random = np.random.default_rng(0)
    pairs = [(images(random, 0.8), images(random, 0.7)) for _ in range(3)]
    expected = np.mean([miou(a.sum(0)[None]) - miou(b.sum(0)[None]) for a, b in pairs])
    found = paired_difference(pairs)
    assert found.value == pytest.approx(expected) and found.seeds == 3
    assert found.low < found.value < found.high


def test_the_interval_of_one_pair_is_that_of_a_bootstrap_by_hand():
    random = np.random.default_rng(1)
    one, other = images(random, 0.8), images(random, 0.78)
    drawn = []
    for _ in range(3000):
        chosen = random.integers(40, size=40)
        drawn.append(miou(one[chosen].sum(0)[None])[0] - miou(other[chosen].sum(0)[None])[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    found = paired_difference([(one, other)])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_where_all_images_are_alike_the_interval_is_the_t_interval_over_seeds():
    random = np.random.default_rng(1)
    pairs = [
        (np.repeat(images(random, 0.8, 1), 40, axis=0), np.repeat(images(random, 0.7, 1), 40, axis=0)) for _ in range(3)
    ]
    expected = t_interval([float(miou(a[:1])[0] - miou(b[:1])[0]) for a, b in pairs])
    found = paired_difference(pairs)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.05)


def test_a_class_that_a_draw_lacks_costs_no_network_in_it():
    """Of 20 images one has the rare class; the other network takes a single pixel elsewhere for it."""
    confusion = np.zeros((2, 20, 2, 2))
    confusion[:, 1:, 0, 0], confusion[:, 0, 1, 1] = 100, 100
    confusion[1, 5, 0] = [99, 1]
    one, other = (counted(found) for found in confusion)
    found = paired_difference([(one, other)])
    assert 0 < found.value < 1 and found.high < 5  # a half of its IoU, 50, if the one pixel counted against it


def test_draws_without_a_pixel_to_score_leave_an_interval_of_the_others():
    """Five images of which one has pixels: a third of the draws have none."""
    one, other = np.zeros((5, 2, 2)), np.zeros((5, 2, 2))
    one[0], other[0] = [[8, 2], [0, 0]], [[6, 4], [0, 0]]
    found = paired_difference([(counted(one), counted(other))] * 2, accuracy)
    assert (found.value, found.low, found.high) == pytest.approx((20, 20, 20))


def test_neighbours_are_drawn_together_and_equally_often():
    weights = block_bootstrap_weights(10, 4, 5000, np.random.default_rng(0))
    assert (weights.sum(1) == 10).all() and weights.mean(0) == pytest.approx(np.ones(10), abs=0.05)
    neighbours = np.minimum(weights, np.roll(weights, 1, axis=1)).sum(1)
    assert (neighbours >= 7).all()  # two blocks of four and one of two, in each of which all but one follow another


def test_intervals_over_frames_of_one_video_are_wider_and_hold_the_truth_oftener():
    """Blocks of ten frames in which the one network or the other is better."""
    hits, widths = np.zeros(2), np.zeros(2)
    for trial in range(60):
        random = np.random.default_rng(trial)
        advantage = np.repeat(0.08 * random.standard_normal(10), 10)
        one, other = (
            np.concatenate([images(random, right, 1) for right in shares])
            for shares in (0.6 + advantage, np.full(100, 0.6))
        )
        for place, length in enumerate((1, 20)):
            found = paired_difference([(one, other)], draws=300, block_length=length)
            hits[place] += found.low <= 0 <= found.high
            widths[place] += found.high - found.low
    assert widths[1] > 1.7 * widths[0] and hits[1] - hits[0] > 12


def test_ends_of_an_interval_hardly_depend_on_the_random_numbers():
    random = np.random.default_rng(3)
    pairs = [(images(random, 0.8), images(random, right)) for right in (0.77, 0.79)]
    ends = np.array([(found.low, found.high) for found in (paired_difference(pairs, seed=s) for s in range(6))])
    assert ends.std(0).max() < 0.03 * (ends[:, 1] - ends[:, 0]).mean()


def test_the_same_predictions_differ_by_nothing_with_certainty():
    same = images(np.random.default_rng(2), 0.8)
    assert paired_difference([(same, same)] * 3) == Estimate(0, 0, 0, 3)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("between", [0.0, 0.01, 0.05])
def test_intervals_hold_the_truth_about_as_often_as_they_say(seeds, between):
    """Of one seed only where seeds do not differ: nothing can be known of what one does not see."""
    if seeds == 1 and between:
        pytest.skip("one seed says nothing of others")
    hits = 0
    for trial in range(100):
        random = np.random.default_rng(trial)
        right = 0.7 + between * random.standard_normal((seeds, 2))
        found = paired_difference([(images(random, a), images(random, b)) for a, b in right], draws=300)
        hits += found.low <= 0 <= found.high
    assert 88 <= hits <= 100


def test_no_pairs_no_number():
    found = paired_difference([])
    assert np.isnan(found.value) and found.seeds == 0 and str(found) == "–"


def test_t_interval_of_three_seeds_by_hand():
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.value, found.seeds) == (2, 3)
    assert found.high - 2 == pytest.approx(4.303 / 3**0.5, rel=1e-3) and found.low == pytest.approx(4 - found.high)
    assert np.isnan(t_interval([1.0]).low)


def test_of_bounds_the_middle_is_given_in_the_intervals_of_both():
    least, most = [1.0, 2.0, 3.0], [2.0, 4.0, 3.0]
    found = interval_hull(least, most)
    assert (found.value, found.low, found.high) == (2.5, t_interval(least).low, t_interval(most).high)
    assert interval_hull(least, least) == t_interval(least)


@pytest.mark.parametrize("block_length", [1, 3, 4])
def test_weights_are_those_of_the_circular_block_bootstrap(block_length):
    """Of `arch`: how often two images are in one draw follows from how far apart they are, and from nothing else."""
    draws, count = 40000, 8
    weights = block_bootstrap_weights(count, block_length, draws, np.random.default_rng(0))
    bootstrap = CircularBlockBootstrap(block_length, np.arange(count), seed=np.random.default_rng(1))
    expected = np.array([np.bincount(data[0][0], minlength=count) for data in bootstrap.bootstrap(draws)])
    mine, theirs = (np.einsum("di,dj->ij", w, w) / draws for w in (weights, expected))
    assert mine == pytest.approx(theirs, abs=0.05)


@pytest.mark.parametrize(
    ("seeds", "quantile"), [(2, 12.706), (3, 4.303), (4, 3.182), (7, 2.447), (10, 2.262), (12, 2.201)]
)
def test_t_quantiles_are_those_of_printed_tables(seeds, quantile):
    found = t_interval([float(seed) for seed in range(seeds)])
    error = np.std(np.arange(seeds), ddof=1) / seeds**0.5
    assert (found.high - found.value) / error == pytest.approx(quantile, abs=5e-4)
