"""Images say what the numbers say: colours, maps and arrows against values computed by hand."""

import colorsys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from ovenet_core.data import CITYSCAPES, draw_scene
from ovenet_core.figures import curves, images, method_diagram
from ovenet_core.utils import ConfigError

HEIGHT, WIDTH = 21, 41


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def field(dx: float, dy: float) -> torch.Tensor:
    return torch.tensor([dx, dy]).view(2, 1, 1).expand(2, HEIGHT, WIDTH).clone()


def colour(dx: float, dy: float, longest: float = 0.5) -> np.ndarray:
    return images.offset_image(field(dx, dy), longest)[0, 0].astype(int)


def hue(dx: float, dy: float) -> float:
    return colorsys.rgb_to_hsv(*(colour(dx, dy) / 255))[0]


def test_zero_offset_is_white():
    assert (images.offset_image(field(0.0, 0.0)) == 255).all()


def test_direction_gives_the_hue_and_length_does_not():
    hues = [hue(0.3 * np.cos(a), 0.6 * np.sin(a)) for a in np.arange(8) * np.pi / 4]
    assert len(np.unique(np.round(hues, 2))) == 8
    assert hue(0.4, 0) == pytest.approx(hue(0.2, 0), abs=0.01)


def test_longer_offsets_are_stronger_in_colour():
    lightness = [colour(length, 0).min() for length in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)]
    assert lightness == sorted(lightness, reverse=True) and len(set(lightness)) == 6


def test_colour_grows_as_the_root_of_the_length():
    # Half as strong, from white (255) on, at a quarter of the length.
    assert 255 - colour(0.125, 0).min() == pytest.approx((255 - colour(0.5, 0).min()) / 2, abs=1)


def test_colours_are_comparable_between_fields():
    alone, beside_a_longer_one = field(0.1, 0), field(0.1, 0)
    beside_a_longer_one[:, -1] = 0.9
    first = images.offset_image(alone)[0, 0]
    assert (images.offset_image(beside_a_longer_one)[0, 0] == first).all()


def test_offsets_beyond_the_longest_look_like_the_longest():
    assert (colour(0.9, 0.0, longest=0.3) == colour(0.3, 0.0, longest=0.3)).all()


def test_length_and_angle_are_those_seen_in_the_image():
    # On this image, twice as wide as high, dx = 0.2 and dy = 0.4 are both 4 pixels.
    assert images.isotropic(field(0.2, 0)).norm(dim=0)[0, 0] == images.isotropic(field(0, 0.4)).norm(dim=0)[0, 0]
    wheel = torch.zeros(2, 41, 41)
    wheel[:] = torch.tensor([0.2, 0.2]).view(2, 1, 1)
    assert (images.offset_image(wheel)[0, 0] == colour(0.2, 0.4)).all()


def test_a_length_of_zero_cannot_be_the_reference():
    with pytest.raises(ConfigError) as caught:
        images.offset_image(field(0.0, 0.0), 0.0)
    assert caught.value.where == "longest" and caught.value.found == "0.0"


def test_reference_length_leaves_out_the_few_longest():
    offsets = field(0.1, 0)
    offsets[0, 0, :3] = 0.5
    assert images.reference_length([offsets]) == pytest.approx(0.1)
    assert images.reference_length(field(0.0, 0.0)[None]) == 0.01


def test_wheel_has_the_colours_of_the_image():
    _, ax = plt.subplots()
    images.offset_wheel(ax, 0.5)
    wheel = np.asarray(ax.images[0].get_array())
    assert (wheel[100, 200, :3] == colour(0.5, 0.0)).all() and (wheel[200, 100, :3] == colour(0.0, 1.0)).all()
    assert (wheel[100, 100, :3] >= 254).all() and wheel[0, 0, 3] == 0


def test_confidence_runs_from_dark_to_bright():
    ramp = images.confidence_image(torch.linspace(0, 1, 9).view(1, 1, 9)).astype(int).sum(axis=2)[0]
    assert (np.diff(ramp) > 0).all()


def test_confidence_does_not_depend_on_its_own_range():
    half, among_others = torch.full((1, 1, 1), 0.5), torch.tensor([[[0.5, 0.6]]])
    assert (images.confidence_image(half)[0, 0] == images.confidence_image(among_others)[0, 0]).all()


def test_change_map_by_hand():
    label = np.array([[0, 0, 0, 0, 0, 255, 255]], np.uint8)
    initial = np.array([[0, 1, 0, 1, 1, 0, 1]], np.uint8)
    fused = np.array([[0, 0, 1, 2, 1, 0, 2]], np.uint8)
    expected = ["unchanged", "repaired", "degraded", "other error", "unchanged", "ignored", "ignored"]
    codes = images.change_map(label, torch.from_numpy(initial), torch.from_numpy(fused))
    assert [list(images.CHANGE_COLOURS)[code] for code in codes[0]] == expected
    assert images.code_image(codes)[0].tolist() == [list(images.CHANGE_COLOURS[name]) for name in expected]


def test_error_map_tells_which_network_is_wrong():
    label, baseline, fused = [1, 1, 1, 1, 1, 255], [1, 2, 1, 2, 2, 2], [1, 1, 2, 3, 2, 2]
    codes = images.error_map(*(np.array([row], np.uint8) for row in (label, baseline, fused)))
    expected = ["both right", "baseline alone wrong", "OVeNet alone wrong", "both wrong", "both wrong", "ignored"]
    assert [list(images.ERROR_COLOURS)[code] for code in codes[0]] == expected
    assert [tuple(c) for c in images.code_image(codes)[0]] == [images.ERROR_COLOURS[name] for name in expected]


def test_label_image_has_the_dataset_s_colours():
    label = np.array([[0, 18, 255]], np.uint8)
    assert images.label_image(label, CITYSCAPES)[0].tolist() == [[128, 64, 128], [119, 11, 32], [0, 0, 0]]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 100), (1.0, 128), (0.5, 114)])
def test_overlay_mixes_image_and_class_colour(alpha, expected):
    image, label = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 255]], np.uint8)
    mixed = images.overlay(image, label, CITYSCAPES, alpha)
    assert mixed[0, 0, 0] == expected and (mixed[0, 1] == 100).all()


def test_overlay_of_nothing_is_the_image():
    image = np.full((2, 2, 3), 7, np.uint8)
    assert (images.overlay(image, np.full((2, 2), 255, np.uint8), CITYSCAPES) == image).all()


def test_farthest_points_lie_in_the_mask_evenly_spread():
    mask = np.zeros((101, 60), bool)
    mask[:, 29:31] = True
    pixels = images.farthest_points(mask, 11, seed=3)
    assert set(pixels[:, 0]) <= {29, 30}
    gaps = np.diff(np.sort(pixels[:, 1]))
    assert len(pixels) == 11 and gaps.min() >= 5 and gaps.max() <= 20


def test_pixels_are_chosen_by_the_seed_alone():
    mask = np.random.default_rng(0).random((20, 30)) < 0.3
    assert (images.farthest_points(mask, 9, seed=1) == images.farthest_points(mask, 9, seed=1)).all()
    assert (images.farthest_points(mask, 9, seed=1) != images.farthest_points(mask, 9, seed=2)).any()


def test_no_more_pixels_than_there_are():
    mask = np.zeros((4, 5), bool)
    assert images.farthest_points(mask, 3).shape == (0, 2)
    mask[1, 4] = True
    assert images.farthest_points(mask, 3).tolist() == [[4, 1]]


def test_seed_pixels_by_hand():
    # 0.5 is a quarter of the 40 pixels from the first column to the last; no seed lies outside the image.
    seeds = images.seed_pixels(field(0.5, -0.2), np.array([[5, 10], [40, 1]]), HEIGHT, WIDTH)
    assert seeds == pytest.approx(np.array([[15, 8], [40, 0]]), abs=1e-4)


def test_seed_pixels_do_not_depend_on_the_resolution_of_the_field():
    pixels = np.array([[5, 10], [17, 3]])
    coarse = torch.tensor([0.5, -0.2]).view(2, 1, 1).expand(2, 5, 7)
    fine = images.seed_pixels(field(0.5, -0.2), pixels, HEIGHT, WIDTH)
    assert images.seed_pixels(coarse, pixels, HEIGHT, WIDTH) == pytest.approx(fine, abs=1e-4)


def test_arrows_start_at_the_pixels_and_end_at_the_seeds():
    _, ax = plt.subplots()
    pixels = np.array([[5, 10], [20, 4]])
    images.seed_arrows(ax, np.zeros((HEIGHT, WIDTH, 3), np.uint8), field(0.5, -0.2), pixels)
    arrows = next(artist for artist in ax.collections if hasattr(artist, "U"))
    assert (pixels == arrows.XY).all()
    assert pytest.approx(np.array([[10, -2], [10, -2]]), abs=1e-4) == np.stack([arrows.U, arrows.V]).T


def test_legend_names_the_classes_that_occur_in_order():
    label = np.array([[13, 13, 0, 0, 255]], np.uint8)
    assert list(images.class_colours([label], CITYSCAPES)) == ["road", "car", "ignored"]


def history(**columns: list) -> pd.DataFrame:
    count = 4
    common = {"iteration": range(count), "epoch": [0, 0, 1, 1], "lr": np.linspace(0.01, 0, count)}
    return pd.DataFrame(common | columns)


def drawn(ax) -> dict:
    return {line.get_label(): line.get_xydata() for line in ax.lines}


def test_curves_of_ovenet():
    losses = {f"loss{part}": [4, 3, 2, 1] for part in ("", "_fused", "_seed", "_initial", "_confidence")}
    nan = float("nan")
    scores = {f"miou_{name}": [nan, 0.25, nan, 0.5] for name in ("initial", "seed", "fused")}
    terms, rate, miou = map(drawn, curves.training_curves(history(**losses, **scores)).axes)
    assert set(terms) == {curves.LINES[name][0] for name in losses} and set(rate) == {"learning rate"}
    assert set(miou) == set(images.TITLES.values())
    assert miou["fused $S_f$"].tolist() == [[1, 25], [3, 50]]  # in percent, NaN left out


def test_curves_of_a_baseline_show_only_what_it_has():
    nan = float("nan")
    columns = {"loss": [2, 2, 1, 1], "loss_initial": [2, 2, 1, 1], "miou_initial": [nan, 0.25, nan, 0.5]}
    terms, _, miou = map(drawn, curves.training_curves(history(**columns, miou_fused=[nan] * 4)).axes)
    assert set(terms) == {curves.LINES["loss_initial"][0]}  # the total of one term is that term
    assert set(miou) == {images.TITLES["S_i"]}


def test_a_new_loss_term_is_drawn_under_its_own_name():
    terms, *_ = map(drawn, curves.training_curves(history(loss=[3] * 4, loss_initial=[1] * 4, loss_new=[2] * 4)).axes)
    assert terms["loss_new"][:, 1].tolist() == [2] * 4


def test_gallery_shows_all_images_of_any_size():
    batch = [np.full(size, value, np.uint8) for value, size in ((1, (8, 9, 3)), (2, (5, 9, 3)), (3, (8, 4, 3)))]
    figure = images.gallery([*batch[:2], torch.from_numpy(batch[2])], columns=2)
    shown = [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]
    assert all(np.array_equal(one, image) for one, image in zip(shown, batch, strict=True))


def test_overview_shows_a_fusion_that_repairs():
    panels = method_diagram.illustration(seed=3)
    scene = draw_scene(3, method_diagram.HEIGHT, method_diagram.WIDTH)
    truth = images.label_image(CITYSCAPES.lookup[scene.label_ids], CITYSCAPES)
    right = {name: (panels[name] == truth).all(axis=2).mean() for name in ("S_i", "S_f")}
    assert right["S_i"] < right["S_f"]
    shown = [np.asarray(image.get_array()) for image in method_diagram.overview(panels).axes[0].images]
    assert all(any(np.array_equal(panel, image) for image in shown) for panel in panels.values())
