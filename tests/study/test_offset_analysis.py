"""What is counted of offsets, confidence and fusion, against values by hand and brute force."""

import json
from dataclasses import replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from ovenet_core.data import CAMVID, CITYSCAPES
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.evaluation.boundary_metrics import BANDS
from ovenet_core.evaluation.evaluate import evaluate
from ovenet_core.evaluation.inference import classes, predict
from ovenet_core.figures import offset_plots
from ovenet_core.ovenet import build
from ovenet_core.study.offset_analysis import (
    DISTANCES,
    LENGTHS,
    MAPS,
    ORACLE_SEEDS,
    SHARES,
    Analysis,
    analyse,
    count_offsets,
    oracle_predictions,
    random_directions,
    within_reach,
)
from ovenet_core.utils import ConfigError, DataError

HEIGHT, WIDTH, IGNORE = 31, 61, 255


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def halves() -> np.ndarray:
    """Sky to the left, building to the right of a boundary between columns 29 and 30."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:, 30:] = 1
    return label


def blocks(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Rectangles of three classes and some ignored ones."""
    random, label = np.random.default_rng(seed), np.zeros((height, width), np.uint8)
    for _ in range(15):
        top, left, down, right = random.integers((0, 0, 1, 1), (height, width, 12, 12))
        label[top : top + down, left : left + right] = random.choice([0, 1, 2, IGNORE])
    return label


def field(dx: float | np.ndarray, dy: float | np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """Offsets from vectors in pixels."""
    x, y = (np.broadcast_to(np.float32(d), (height, width)) for d in (dx, dy))
    return torch.from_numpy(np.stack([x * 2 / (width - 1), y * 2 / (height - 1)]).astype(np.float32))


def noise(label: np.ndarray, seed: int) -> np.ndarray:
    """The label with a third of the pixels of a random class, and one for those ignored."""
    random = np.random.default_rng(seed)
    guess = random.integers(0, 3, label.shape, np.uint8)
    return np.where((label == IGNORE) | (random.random(label.shape) < 1 / 3), guess, label)


def table_of(label, offsets, confidence=0.5, maps=None):
    """The table for one image; by default every prediction is right."""
    truth = np.where(label == IGNORE, 0, label)
    maps = maps or dict.fromkeys(("S_i", "S_s", "S_f"), truth)
    confidence = np.broadcast_to(np.float32(confidence), label.shape)
    bounds = oracle_predictions(maps, label, 0.5)
    counts = count_offsets(offsets, confidence, bounds, label, 11, np.random.default_rng(0))
    return Analysis(CAMVID, {None: counts}, {}, pd.DataFrame())


def overall(*arguments, **named):
    return table_of(*arguments, **named).table.loc["all"].loc["all"].loc["all"]


def away(length: float) -> torch.Tensor:
    """Straight away from the boundary of `halves`."""
    return field(np.where(np.arange(WIDTH) < 30, -length, length), 0)


# -- (a), (b): offsets


def test_offsets_straight_away_from_a_boundary_have_angle_zero():
    found = table_of(halves(), away(3.0))
    assert found.angle_shares().iloc[0] == 1
    row = found.table.loc["all"].loc["all"].loc["all"]
    assert row["cosine"] == pytest.approx(1) and row["away"] == 1 and row["sloped"] == 1


def test_offsets_straight_to_a_boundary_have_angle_180():
    found = table_of(halves(), away(-3.0))
    assert found.angle_shares().iloc[-1] == 1 and found.table["away"].dropna().eq(0).all()


def test_offsets_along_a_boundary_have_angle_90_and_gain_nothing():
    row = overall(halves(), field(0, 2))
    assert row["cosine"] == pytest.approx(0, abs=1e-6) and row["seed_gain"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("direction", "cosine"), [((1, 1), 1), ((-1, -1), -1), ((1, -1), 0)])
def test_angles_are_those_to_an_oblique_boundary(direction, cosine):
    down, right = np.indices((HEIGHT, WIDTH))
    found = table_of((down + right > 45).astype(np.uint8), field(*np.multiply(direction, 2.0))).groups["all"]
    near = np.s_[:2, 1:4]  # both classes, where the ends of the boundary do not matter much
    means = found["cosine"][near].sum(1) / found["sloped"][near].sum(1)
    np.testing.assert_allclose(means, [-cosine, cosine], atol=0.1)


def test_a_seed_straight_away_from_a_boundary_gains_the_length():
    table = table_of(halves(), away(3.0)).table.loc["all"].loc["distance"]
    inside = ["below 1", "1 to 2", "2 to 4", "4 to 8", "8 to 16"]  # their seeds are inside the image
    np.testing.assert_allclose(table.loc[inside, "seed_gain"], 3, atol=1e-4)
    np.testing.assert_allclose(table.loc[inside, ["length", "seed_same", "seed_deeper"]], [[3, 1, 1]] * 5, atol=1e-5)


def test_a_seed_across_the_boundary_is_of_another_class():
    table = table_of(halves(), away(-3.0)).table.loc["all"].loc["distance"]
    # Of the columns 0 to 3 pixels from the boundary, a step of 3 across it reaches the other side from the first three.
    np.testing.assert_array_equal(table.loc[["below 1", "1 to 2"], "seed_same"], 0)
    assert table.loc["2 to 4", "seed_same"] == 0.5 and table.loc["4 to 8", "seed_same"] == 1


def test_lengths_count_each_axis_in_its_own_pixels():
    label, half = halves(), torch.full((2, HEIGHT, WIDTH), 0.5)
    assert overall(label, half)["length"] == pytest.approx(np.hypot(15, 7.5), rel=1e-6)


def test_quantiles_of_lengths_are_within_a_bin():
    random = np.random.default_rng(0)
    lengths = random.gamma(2, 4, (HEIGHT, WIDTH))
    row = overall(halves(), field(lengths, 0))
    step = LENGTHS[-1] / LENGTHS[-2]
    for name, share in (("length_median", 0.5), ("length_90", 0.9)):
        assert 1 / step <= row[name] / np.quantile(lengths, share) <= step


def test_seeds_outside_are_counted():
    row = overall(halves(), field(2.5, 0))
    assert row["outside"] == pytest.approx(3 / WIDTH)  # the last three columns; the fourth reaches the border


def test_short_offsets_have_no_direction():
    row = overall(halves(), away(0.4))
    assert row["moved"] == row["sloped"] == 0 and np.isnan(row["cosine"]) and np.isnan(row["seed_gain"])


def test_a_thin_structure_has_no_way_away_from_its_boundary():
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:, 30:32] = 2  # a pole two pixels wide
    table = table_of(label, field(2, 0)).table.loc["all"].loc["class"]
    assert table.loc["pole", "sloped"] == 0 and table.loc["sky", "sloped"] == 1


def test_random_directions_are_of_the_same_lengths_and_of_no_direction():
    lengths = np.hypot(np.linspace(0, 9, 300), np.full((200, 1), 4)).astype(np.float32)
    random = random_directions(lengths, np.random.default_rng(0))
    torch.testing.assert_close(random.norm(dim=0), torch.from_numpy(lengths))
    assert random.mean((1, 2)).abs().max() < 0.05


def test_offsets_in_random_directions_do_as_well_as_the_random_ones():
    label = blocks(3, 120, 160)
    vectors = random_directions(np.full((120, 160), 18**0.5, np.float32), np.random.default_rng(1))
    row = overall(label, field(*vectors.numpy(), 120, 160))
    for what in ("gain", "same", "deeper"):
        assert row[f"seed_{what}"] == pytest.approx(row[f"random_{what}"], abs=0.03)
    assert row["cosine"] == pytest.approx(0, abs=0.02)


def test_an_image_of_one_class_has_no_directions():
    row = overall(np.zeros((HEIGHT, WIDTH), np.uint8), field(3, 0))
    assert row["sloped"] == 0 and np.isnan(row["seed_gain"]) and row["seed_has_label"] == 1


@pytest.mark.parametrize("seed", range(3))
def test_groups_equal_brute_force(seed):
    """Pixels and mean length of every class and every distance, pixel by pixel; ignored ones are in none."""
    label, random = blocks(seed), np.random.default_rng(seed)
    vectors = random.normal(0, 3, (2, HEIGHT, WIDTH))
    table = table_of(label, field(*vectors)).table.loc["all"]
    boundary = [
        (v, u)
        for v, u in product(range(HEIGHT), range(WIDTH))
        if label[v, u] != IGNORE
        and any(
            label[y, x] not in (label[v, u], IGNORE)
            for y, x in ((v + 1, u), (v - 1, u), (v, u + 1), (v, u - 1))
            if 0 <= y < HEIGHT and 0 <= x < WIDTH
        )
    ]
    groups = {}
    for v, u in np.argwhere(label != IGNORE):
        distance = np.sqrt(((np.array(boundary) - (v, u)) ** 2).sum(1).min())
        own, near = CAMVID.class_names[label[v, u]], DISTANCES[np.digitize(distance, BANDS)]
        for group in (("class", own), ("distance", near)):
            groups.setdefault(group, []).append(np.hypot(*vectors[:, v, u]))
    assert {key for key, row in table.iterrows() if row["pixels"]} == groups.keys() | {("all", "all")}
    for key, values in groups.items():
        assert table.loc[key, "pixels"] == len(values) and table.loc[key, "length"] == pytest.approx(np.mean(values))


# -- (c): confidence


@pytest.mark.parametrize("confidence", [0.0, 0.33, 0.8, 1.0])
def test_calibration_error_of_a_constant_is_its_distance_from_the_rate(confidence):
    label = halves()
    row = overall(label, field(5, 0), confidence)
    rate = 1 - 5 / WIDTH  # five columns have a seed across the boundary
    assert row["seed_has_label"] == pytest.approx(rate)
    assert row["calibration_error"] == pytest.approx(abs(confidence - rate), abs=1e-6)
    assert row["brier"] == pytest.approx(confidence**2 * (1 - rate) + (1 - confidence) ** 2 * rate, abs=1e-6)


def test_confidence_at_right_and_at_wrong_seeds_are_its_means_there():
    confidence = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
    row, wrong = overall(halves(), field(5, 0), confidence), np.s_[:, 25:30]  # their seeds are across the boundary
    assert row["f_wrong"] == pytest.approx(confidence[wrong].mean())
    assert row["f_right"] == pytest.approx(np.delete(confidence, np.r_[25:30], axis=1).mean())


def test_a_confidence_that_knows_is_calibrated():
    label = halves()
    knows = np.where((np.arange(WIDTH) >= 25) & (np.arange(WIDTH) < 30), 0, 1)
    found = table_of(label, field(5, 0), knows)
    row = found.table.loc["all"].loc["all"].loc["all"]
    assert row["calibration_error"] == row["brier"] == 0 < row["brier_of_rate"]
    bins = found.reliability().dropna()
    np.testing.assert_array_equal(bins["confidence"], bins["rate"])


def test_a_seed_without_a_label_is_in_no_rate():
    label = halves()
    label[:, 30:35] = IGNORE
    assert overall(label, field(5, 0), 0.7)["seed_has_label"] == 1


# -- (d), (f): fusion and oracles


def predictions(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    label = blocks(seed)
    return label, {name: noise(label, 10 * seed + place) for place, name in enumerate(("S_i", "S_s", "S_f"))}


@pytest.mark.parametrize("seed", range(3))
def test_repaired_degraded_and_kept_equal_counting(seed):
    label, maps = predictions(seed)
    row, valid = overall(label, field(1, 1), 0.3, maps), label != IGNORE
    initial, seeded, fused = ((maps[name] == label)[valid] for name in ("S_i", "S_s", "S_f"))
    assert row["repaired"] == pytest.approx((~initial & fused).mean())
    assert row["degraded"] == pytest.approx((initial & ~fused).mean())
    assert row["only_seed_kept"] == pytest.approx(fused[seeded & ~initial].mean())
    assert row["only_initial_kept"] == pytest.approx(fused[initial & ~seeded].mean())
    assert row["only_seed_f"] == row["only_initial_f"] == pytest.approx(0.3)
    assert row["accuracy S_s"] == pytest.approx(seeded.mean())


def test_oracle_confidence_is_right_where_either_is():
    label, maps = predictions(0)
    either = (maps["S_i"] == label) | (maps["S_s"] == label)
    maps["S_f"] = np.where(np.arange(WIDTH) % 2, maps["S_i"], maps["S_s"])  # any choice between the two
    np.testing.assert_array_equal(oracle_predictions(maps, label, 0.5)["oracle confidence"] == label, either)


@pytest.mark.parametrize("seed", range(3))
def test_oracles_are_never_below_the_fused_prediction(seed):
    label, maps = predictions(seed)
    bounded = oracle_predictions(maps, label, 0.1)
    assert tuple(bounded) == MAPS
    for name in MAPS[3:]:
        assert not ((maps["S_f"] == label) & (bounded[name] != label)).any()
        wrong = bounded[name] != label
        np.testing.assert_array_equal(bounded[name][wrong], maps["S_f"][wrong])


@pytest.mark.parametrize("reach", [(0, 0), (1, 0), (2, 3), (40, 70)])
def test_pixels_within_reach_equal_brute_force(reach):
    label, (columns, rows), random = blocks(1, 18, 25), reach, np.random.default_rng(0)
    predicted = random.choice([0, 1, 2, 3], label.shape, p=[0.9, 0.05, 0.02, 0.03]).astype(np.uint8)
    found = within_reach(predicted, label, reach)
    for v, u in np.argwhere(label != IGNORE):
        window = predicted[max(v - rows, 0) : v + rows + 1, max(u - columns, 0) : u + columns + 1]
        assert found[v, u] == (window == label[v, u]).any()


def test_the_oracle_seed_reaches_as_far_as_offsets_do():
    label = np.zeros((41, 81), np.uint8)
    predicted = np.ones_like(label)
    predicted[20, 40] = 0
    bounded = oracle_predictions(dict.fromkeys(("S_i", "S_s", "S_f"), predicted), label, 0.5)
    for name, share in zip(ORACLE_SEEDS, SHARES, strict=True):
        v, u = np.nonzero(bounded[name] == 0)
        # tau of half a width: 0.5 * 80 / 2 columns and 0.5 * 40 / 2 rows to each side, or a share of them
        assert (u.min(), u.max()) == (40 - int(20 * share), 40 + int(20 * share))
        assert (v.min(), v.max()) == (20 - int(10 * share), 20 + int(10 * share))


# -- A split


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """An untrained network, three generated scenes, and the analysis of them."""
    torch.manual_seed(0)
    data = CITYSCAPES
    root = write_scenes(tmp_path_factory.mktemp("synthetic"), split_sizes={"val": 3}, size=(96, 160), progress=False)
    samples = data.samples(root, "val")
    samples = [replace(s, condition=c) for s, c in zip(samples, ("night", "fog", "night"), strict=True)]
    network = build(width=4, blocks=1, num_classes=data.num_classes).eval()
    return network, data, samples, analyse(network, data, samples, progress=False)


def test_scores_are_those_of_evaluation(split):
    network, data, samples, found = split
    expected = evaluate(
        data,
        samples,
        lambda s: classes(predict(network, data.read_image(s)), data.read_label(s).shape),
        workers=1,
        progress=False,
    )
    for name, evaluation in expected.items():
        ours = found.scores.loc["all"].loc[name]
        trimap = evaluation.counts.boundaries.trimap[4]
        assert (ours["miou"], ours["trimap_4"]) == (evaluation.scores.miou, trimap.miou)
        assert ours["pixel_accuracy"] == pytest.approx(found.table.loc["all"].loc["all"].loc["all", f"accuracy {name}"])
        for condition, part in evaluation.conditions.items():
            assert found.scores.loc[condition].loc[name, "miou"] == part.scores.miou


def test_conditions_add_up(split):
    _, _, samples, found = split
    assert list(found.groups) == ["all", "night", "fog"]
    pixels = found.table["pixels"].xs("class", level="by").groupby("condition").sum()
    assert pixels["all"] == pixels["night"] + pixels["fog"] == found.images["pixels"].sum()
    assert list(found.images.index) == [sample.name for sample in samples]


def test_the_same_again(split):
    network, data, samples, found = split
    assert analyse(network, data, samples, progress=False).table.equals(found.table)


def test_numbers_are_fit_for_json(split):
    table = split[-1].table
    stored = json.loads(json.dumps(split[-1].as_dict(), allow_nan=False))
    assert len(stored["table"]) == len(table) and stored["images"][0]["image"]
    for row, (_, numbers) in zip(stored["table"], table.iterrows(), strict=True):
        assert [row[name] for name in table if name[:2] != "f_"] == [
            None if np.isnan(number) else number for name, number in numbers.items() if name[:2] != "f_"
        ]
        for name in ("f_right", "f_wrong"):  # [least, most]
            assert row[name] == (None if np.isnan(numbers[name]) else [numbers[name]] * 2)


def test_percent_scales_shares_alone(split):
    table, percent = split[-1].table.loc["all"], split[-1].percent("length", "moved", "net")
    expected = [table["length"], 100 * table["moved"], 100 * (table["repaired"] - table["degraded"])]
    np.testing.assert_allclose(percent, np.transpose(expected))


@pytest.mark.parametrize("figure", ["lengths", "directions", "calibration", "repairs", "bounds"])
def test_figures_have_titles_and_units(figure, split):
    drawn = getattr(offset_plots, figure)(split[-1])
    drawn.canvas.draw()
    assert all(ax.get_title() and ax.lines + ax.patches for ax in drawn.axes)


def test_a_network_without_offsets_is_refused(split):
    _, data, samples, _ = split
    with pytest.raises(ConfigError) as caught:
        analyse(build(width=4, blocks=1, branch_stage=None), data, samples)
    assert caught.value.where == "network"


def test_no_samples_are_refused(split):
    with pytest.raises(DataError) as caught:
        analyse(split[0], split[1], [])
    assert caught.value.where == split[1].name and caught.value.found == "no samples"
