"""Figures 1 to 11: images chosen by rule and regions found, against values worked out by hand; what is refused."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from safetensors.torch import save_file

from ovenet_core.data import CAMVID, CITYSCAPES
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.figures import images, qualitative
from ovenet_core.figures.model_pair import Example, open_pair, predict_example
from ovenet_core.figures.network_figure import changed_classes, network_figure
from ovenet_core.figures.selection import around, captions, failures, improves, ranked, regions, spread
from ovenet_core.ovenet import Logits, Prediction
from ovenet_core.training import build_network, load_trained, preset
from ovenet_core.utils import ConfigError, DataError, RunError, write_json

HEIGHT, WIDTH = 60, 120
ROAD, CAR, SKY = (CITYSCAPES.class_names.index(name) for name in ("road", "car", "sky"))


@pytest.fixture(autouse=True)
def no_window():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


# -- Images by rule


def scored(**gains: float) -> pd.DataFrame:
    """Images with a baseline of 50% and these gains."""
    table = pd.DataFrame({"baseline": 50.0, "gain": gains})
    return ranked(table.assign(S_f=table["baseline"] + table["gain"], S_i=table["baseline"]))


def test_ranking_is_by_gain_then_by_name():
    table = scored(d=0.0, b=3.0, c=0.0, a=-1.0)
    assert list(table.index) == ["b", "c", "d", "a"] and list(table["rank"]) == [1, 2, 3, 4]


def test_three_images_are_the_largest_gain_the_median_and_the_largest_loss():
    chosen = spread(scored(a=5, b=4, c=1, d=-1, e=-7), 3)
    assert dict(chosen["rule"]) == {"a": "largest gain", "c": "median", "e": "largest loss"}
    assert dict(spread(scored(a=5, b=4, c=1, d=-1), 3)["rule"])["c"] == "median"  # of b and c the one with less gain


def test_an_image_that_gains_is_no_loss():
    assert spread(scored(a=5, b=4, c=1), 3)["rule"].iloc[-1] == "smallest gain"


def test_more_images_are_spread_over_the_others_and_keep_their_rank():
    table = scored(a=5, b=4, c=3, d=2, e=1, f=0, g=-1, h=-2)
    chosen = spread(table, 3, without=["a", "h"])
    assert list(chosen.index) == ["b", "e", "g"] and list(chosen["rank"]) == [2, 5, 7]
    assert list(chosen["rule"]) == ["", "median", ""]


@pytest.mark.parametrize("count, expected", [(1, ["a"]), (2, ["a", "c"]), (9, ["a", "b", "c"])])
def test_spread_of_few_images(count, expected):
    assert list(spread(scored(a=2, b=1, c=0), count).index) == expected


def test_failures_are_the_largest_losses_and_the_lowest_scores_each_once():
    table = scored(a=-1, b=-6, c=2, d=-5, e=1).assign(S_f=pd.Series({"a": 40, "b": 10, "c": 20, "d": 50, "e": 30}))
    chosen = failures(table, 4)
    assert list(chosen.index) == ["b", "d", "c", "e"]  # b is also the lowest score
    assert list(chosen["rule"]) == [f"{kind}, no. {i}" for kind in ("largest loss", "lowest score") for i in (1, 2)]


def test_failures_of_a_network_that_never_loses_are_its_lowest_scores():
    assert list(failures(scored(a=3, b=1, c=2), 2).index) == ["b", "c"]


def test_captions_have_the_rule_and_the_numbers():
    first, last = captions(spread(scored(a=2.25, b=-1.5), 2), 2, ("HRNet", "OVeNet"))
    assert first == "a:  largest gain, rank 1 of 2 by gain;  mIoU HRNet 50.0%, OVeNet 52.2% (+2.2)"
    assert last.endswith("OVeNet 48.5% (−1.5)") and "largest loss, rank 2 of 2" in last


# -- Regions


def blocks(*places: tuple[int, int, int, int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    for left, top, across, down in places:
        mask[top : top + down, left : left + across] = True
    return mask


def test_regions_are_the_blocks_with_a_margin_the_largest_first():
    mask = blocks((50, 20, 8, 5), (90, 40, 20, 10), (5, 5, 6, 4))
    assert regions(mask) == [(88, 38, 24, 14), (48, 18, 12, 9), (3, 3, 10, 8)]
    assert regions(mask, 1) == [(88, 38, 24, 14)]


def test_regions_end_at_the_edge_of_the_image():
    assert regions(blocks((0, 0, 10, 6), (110, 50, 10, 10))) == [(108, 48, 12, 12), (0, 0, 12, 8)]


def test_thin_lines_and_specks_are_no_regions():
    assert regions(blocks((0, 30, 120, 2), (60, 0, 1, 60), (10, 10, 2, 2))) == []
    assert regions(blocks((50, 20, 3, 3), height=100)) == []  # 9 of 12,000 pixels


def test_blocks_close_to_each_other_are_one_region():
    near, far = blocks((20, 20, 8, 8), (30, 20, 8, 8)), blocks((20, 20, 8, 8), (32, 20, 8, 8))
    assert regions(near) == [(18, 18, 22, 12)] and len(regions(far)) == 2


def test_the_margin_grows_with_the_image():
    assert regions(blocks((300, 200, 100, 50), height=1000, width=2000)) == [(280, 180, 140, 90)]


def test_what_would_frame_most_of_the_image_is_taken_apart():
    mask = blocks((10, 10, 20, 16), (90, 34, 24, 16), (20, 26, 4, 20), (20, 42, 70, 4))  # two blocks and a way between
    assert regions(mask) == [(88, 32, 28, 20), (8, 8, 24, 20)]
    assert regions(np.ones((HEIGHT, WIDTH), bool)) == [(0, 0, WIDTH, HEIGHT)]  # where there is nothing to take apart


def test_a_region_improves_where_more_is_repaired_than_degraded():
    label, before = np.zeros((10, 10), np.uint8), np.zeros((10, 10), np.uint8)
    after = before.copy()
    before[:, :3], after[:, 7:9] = 1, 1  # three columns repaired, two degraded
    assert improves((0, 0, 10, 10), label, before, after)
    assert not improves((5, 0, 5, 10), label, before, after)
    assert not improves((3, 0, 4, 10), label, before, after)  # nothing happened


# -- Figures


def example(name: str = "") -> Example:
    """A car on a road: the baseline misses it, S_i finds its left half, S_f all of it, and another one in the sky.

    The logits are 8 for the class of each pixel, 0 for others.
    """
    label = np.full((HEIGHT, WIDTH), ROAD, np.uint8)
    label[:20] = SKY
    baseline = label.copy()
    label[30:46, 40:64] = CAR
    label[-2:] = 255
    initial, fused = baseline.copy(), np.where(label == 255, ROAD, label).astype(np.uint8)
    initial[30:46, 40:52] = CAR
    fused[4:14, 90:110] = CAR
    maps = {"baseline": baseline, "S_i": initial, "S_s": fused, "S_f": fused}
    rows, columns = HEIGHT // 4, WIDTH // 4
    small = [torch.from_numpy(maps[output][::4, ::4]).long() for output in ("S_i", "S_s", "S_f")]
    outputs = [Logits(8 * torch.eye(19)[ids].permute(2, 0, 1)[None]) for ids in small]
    offsets, confidence = torch.full((1, 2, rows, columns), 0.1), torch.zeros(1, 1, rows, columns)
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    return Example(image, label, maps, Prediction(*outputs, offsets, confidence), name)


def shown(figure) -> dict[str, plt.Axes]:
    """The axes with images by their titles."""
    return {ax.get_title(): ax for ax in figure.axes if ax.images and ax.get_title()}


def rectangles(ax: plt.Axes) -> list[tuple]:
    """Place and colour of the outlines, without their white rims."""
    patches = [(p.get_x(), p.get_y(), p.get_width(), p.get_height(), p.get_edgecolor()[:3]) for p in ax.patches]
    return [r for r in patches if r[-1] != to_rgb("white")]


def contents(figure, rows: int) -> dict[str, list[np.ndarray]]:
    """The images of each column of a grid, by its title."""
    axes = [ax for ax in figure.axes if ax.images and ax.get_subplotspec().rowspan.start < rows]
    titles = {ax.get_subplotspec().colspan.start: ax.get_title() for ax in axes if ax.get_title()}
    columns = {title: [] for title in titles.values()}
    for ax in axes:
        columns[titles[ax.get_subplotspec().colspan.start]].append(np.asarray(ax.images[0].get_array()))
    return columns


def test_grid_shows_every_output_of_every_image():
    one, other = example(), replace(example(), image=np.full((HEIGHT, WIDTH, 3), 7, np.uint8))
    columns = contents(qualitative.prediction_grid([one, other], CITYSCAPES, longest=0.3), 2)
    outputs = ["offsets $o$", "confidence $F$", "what fusion did"]
    assert set(columns) == {"input", "label", *images.TITLES.values(), *outputs}
    assert [image[0, 0, 0] for image in columns["input"]] == [128, 7]
    assert (columns["label"][1] == images.label_image(other.label, CITYSCAPES)).all()
    for name, title in images.TITLES.items():
        assert all((image == images.label_image(one.maps[name], CITYSCAPES)).all() for image in columns[title])
    changed = images.change_map(one.label, one.maps["S_i"], one.maps["S_f"])
    expected = [
        images.offset_image(one.prediction.offsets[0], 0.3),
        images.confidence_image(one.prediction.confidence[0]),
        images.code_image(changed),
    ]
    assert all((columns[title][0] == image).all() for title, image in zip(outputs, expected, strict=True))


def test_grid_leaves_out_what_an_image_does_not_have():
    one = example()
    baseline = Example(one.image, one.label, {"S_i": one.maps["S_i"]})
    assert list(contents(qualitative.prediction_grid([baseline], CITYSCAPES), 1)) == ["input", "label", "initial $S_i$"]
    unlabelled = contents(qualitative.prediction_grid([replace(one, label=None)], CITYSCAPES), 1)
    assert list(unlabelled) == ["input", *images.TITLES.values(), "offsets $o$", "confidence $F$"]


def test_overlay_is_of_the_prediction_or_of_the_label():
    one, panels = example(), ["input", "label", "overlay"]
    labelled = contents(qualitative.prediction_grid([Example(one.image, one.label)], CITYSCAPES, panels), 1)
    assert (labelled["laid over it"][0] == images.overlay(one.image, one.label, CITYSCAPES)).all()
    predicted = Example(one.image, maps={"S_f": one.maps["S_f"]})
    columns = contents(qualitative.prediction_grid([predicted], CITYSCAPES, ["input", "S_f", "overlay"]), 1)
    assert (columns["laid over it"][0] == images.overlay(one.image, one.maps["S_f"], CITYSCAPES)).all()


def test_comparison_outlines_what_changed_in_every_image():
    figure = qualitative.comparison([example("first"), example("second")], CITYSCAPES)
    drawn = shown(figure)
    assert list(drawn)[:4] == ["input", "label", "HRNet", "OVeNet, fused $S_f$"]
    assert list(drawn)[4:8] == ["OVeNet, initial $S_i$", "offsets $o$", "confidence $F$", "from HRNet to OVeNet"]
    blue, orange = (tuple(np.divide(images.CHANGE_COLOURS[kind], 255)) for kind in ("repaired", "degraded"))
    for ax in list(drawn.values())[:8]:
        assert rectangles(ax) == [(37.5, 27.5, 28, 20, blue), (87.5, 1.5, 24, 14, orange)]
        assert ax.images[0].get_extent() == [-0.5, WIDTH - 0.5, HEIGHT - 0.5, -0.5]
    texts = {text.get_text() for text in figure.findobj(Text)}
    assert {"first", "second", "car", "road", "sky", "ignored", "repaired", "OVeNet is better"} <= texts


def test_failures_outline_what_is_wrong():
    figure = qualitative.comparison([example()], CITYSCAPES, columns=qualitative.PANELS["failures"])
    assert [r[:4] for r in rectangles(shown(figure)["errors"])] == [(87.5, 1.5, 24, 14)]


@pytest.mark.parametrize("draw", [qualitative.comparison, qualitative.prediction_grid])
def test_figures_need_an_image(draw):
    with pytest.raises(DataError) as caught:
        draw([], CITYSCAPES)
    assert (caught.value.where, caught.value.found) == ("cityscapes", "no images")


@pytest.mark.parametrize("columns", qualitative.PANELS.values())
@pytest.mark.parametrize("count", [1, 6])
def test_figures_fit_a_page_and_can_be_read(columns, count):
    figure = qualitative.comparison([example("name")] * count, CITYSCAPES, columns=columns)
    width, height = figure.get_size_inches()
    assert width == 7 and height < 9.5
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7


def test_classes_in_a_legend_are_the_most_common_ones():
    label = np.repeat(np.arange(12, dtype=np.uint8), range(100, 1300, 100))[None]  # class 11 covers most
    assert list(images.class_colours([label], CITYSCAPES, 12)) == list(CITYSCAPES.class_names[:12])
    few = list(images.class_colours([label], CITYSCAPES, 4))
    assert 0 < len(few) <= 4 and few == list(CITYSCAPES.class_names[12 - len(few) : 12])


def test_network_is_drawn_with_its_tensors():
    one = example()
    figure = network_figure(one, CITYSCAPES)
    diagram, *zoomed = figure.axes
    shown = [np.asarray(image.get_array()) for image in diagram.images]
    longest = images.reference_length(one.prediction.offsets)
    for panel in ("input", "label", "S_i", "S_s", "S_f", "offsets", "confidence"):
        expected = qualitative.panel_image(panel, one, CITYSCAPES, longest)
        assert any(np.array_equal(image, expected) for image in shown), panel
    texts = [text.get_text() for text in diagram.texts]
    assert {"input", "label", "offsets $o$", "confidence $F$", "logits $C$", "softmax"} <= set(texts)
    assert any("p + o(p)" in text for text in texts) and any("C_s$" in text and "fuse" in text for text in texts)
    assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7
    assert any(text.get_text().startswith("logits of car;") for text in figure.findobj(Text))
    views = [(*ax.get_xlim(), *ax.get_ylim()) for ax in zoomed if ax.get_title() in ("label", "$S_f$")]
    assert len(views) == 2
    for left, right, bottom, top in views:  # around the right half of the car, in 52 to 64, 30 to 46
        assert left <= 50 and right >= 66 and top <= 28 and bottom >= 48 and right - left < WIDTH


def test_logits_are_drawn_on_one_scale():
    one = example()
    drawn = [np.asarray(image.get_array()) for image in network_figure(one, CITYSCAPES).axes[0].images]
    for output in (one.prediction.initial, one.prediction.seed, one.prediction.fused):
        for channel in (CAR, SKY, ROAD):
            pixels = plt.get_cmap("magma")(output.main[0, channel].numpy() / 8, bytes=True)[..., :3]
            assert any(np.array_equal(image, pixels) for image in drawn)


def test_logits_shown_are_those_that_fusion_changed_most():
    one = example()
    height, width = one.label.shape
    whole = (0, 0, width, height)
    assert changed_classes(one, whole) == [CAR, SKY, ROAD]  # 392, 200 and 192 pixels
    assert changed_classes(one, whole, 2) == [CAR, SKY]


def test_classes_that_fusion_changed_elsewhere_are_not_shown_first():
    one = example()
    row, column = np.argwhere(one.changed_by_fusion & (one.maps["S_i"] == SKY))[0].tolist()
    assert changed_classes(one, (column, row, 1, 1), 2) == [CAR, SKY]


def test_the_zoomed_part_lies_in_the_image():
    assert around((0, 0, 4, 4), 100, 200) == (0, 0, 50, 25)
    assert around((98, 48, 4, 4), 100, 200) == (75, 38, 50, 25)
    assert around((180, 80, 20, 20), 100, 200) == (144, 72, 56, 28)  # 1.4 times 20 of 100
    assert around((0, 0, 200, 100), 100, 200) == (50, 25, 100, 50)  # half of it, in the middle


def test_png_and_pdf_are_written(tmp_path):
    png, pdf = qualitative.save(qualitative.comparison([example()], CITYSCAPES), tmp_path / "new", "comparison")
    assert cv2.imread(str(png)).shape[1] == 2100  # 7 inches at 300 dots
    assert len(np.unique(cv2.imread(str(png)))) > 50
    assert pdf.read_bytes().startswith(b"%PDF") and b"/Type3" not in pdf.read_bytes()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["comparison.pdf", "comparison.png"]


def test_files_of_the_paper_s_data_sets_have_its_numbers():
    assert qualitative.file_names("acdc") == {
        "network": "figure1_2",
        "comparison": "figure4_comparison",
        "more": "figure7_more",
        "failures": "figure10_failures",
    }
    assert qualitative.file_names("synthetic/acdc")["comparison"] == "comparison"


# -- Runs


def run_folder(folder: Path, name: str) -> Path:
    """A run of a network as it is before training."""
    experiment = preset(name, width=4, blocks=1, pretrained="")
    torch.manual_seed(0)
    network = build_network(experiment, 11 if experiment.benchmark == "camvid" else 19)
    folder.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "checkpoint.safetensors")
    write_json(folder / "config.json", {"experiment": asdict(experiment)})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    names = ("synthetic/hrnet", "synthetic/ovenet", "camvid-half/hrnet", "camvid-half/ovenet", "synthetic-acdc/hrnet")
    return {name: run_folder(tmp_path_factory.mktemp("runs") / name, name) for name in names}


def test_scores_are_those_of_the_maps(runs, tmp_path):
    root = write_scenes(tmp_path, split_sizes={"val": 3}, size=(64, 128), progress=False)
    samples = CITYSCAPES.samples(root, "val")
    pair = open_pair(runs["synthetic/hrnet"], runs["synthetic/ovenet"], CITYSCAPES)
    table = pair.scores(samples, "pixel_accuracy", progress=False)
    assert pair.names == ("HRNet", "OVeNet") and sorted(table.index) == [sample.name for sample in samples]
    for sample in samples:
        one = pair.example(sample)
        valid = one.label != 255
        for output in ("baseline", "S_i", "S_f"):
            right = (one.maps[output] == one.label)[valid].mean()
            assert table.loc[sample.name, output] == pytest.approx(100 * right)
    assert (table["gain"] == table["S_f"] - table["baseline"]).all() and table["gain"].is_monotonic_decreasing


@pytest.mark.parametrize("name", ["synthetic/hrnet", "synthetic/ovenet"])
def test_samples_are_predicted_and_drawn_in_one_call(name, runs, tmp_path):
    root = write_scenes(tmp_path, split_sizes={"val": 2}, size=(64, 128), progress=False)
    samples, (experiment, network) = CITYSCAPES.samples(root, "val"), load_trained(runs[name])
    columns = contents(qualitative.show_predictions(network, samples, CITYSCAPES, image_size=(32, 64)), 2)
    second = predict_example(network, CITYSCAPES.read_image(samples[1]), image_size=(32, 64))
    for output, ids in second.maps.items():
        assert (columns[images.TITLES[output]][1] == images.label_image(ids, CITYSCAPES)).all()
    assert (columns["label"][1] == images.label_image(CITYSCAPES.read_label(samples[1]), CITYSCAPES)).all()
    assert ("offsets $o$" in columns) == (experiment.branch_stage is not None)
    unlabelled = [replace(sample, label=None) for sample in samples]
    assert "label" not in contents(qualitative.show_predictions(network, unlabelled, CITYSCAPES), 2)


def test_an_unknown_score_is_refused(runs):
    pair = open_pair(runs["synthetic/hrnet"], runs["synthetic/ovenet"], CITYSCAPES)
    with pytest.raises(ConfigError) as caught:
        pair.scores([], "iou")
    assert caught.value.where == "score" and "iou" in caught.value.found
    assert all(score in caught.value.expected for score in ("miou", "pixel_accuracy"))


@pytest.mark.parametrize(
    "baseline, ovenet, error, where, found",
    [
        ("synthetic/ovenet", "synthetic/ovenet", ConfigError, "baseline_run", "synthetic/ovenet"),
        ("synthetic/hrnet", "synthetic/hrnet", ConfigError, "ovenet_run", "synthetic/hrnet"),
        ("synthetic-acdc/hrnet", "synthetic/ovenet", DataError, "synthetic/ovenet", "cityscapes"),
        ("camvid-half/hrnet", "synthetic/ovenet", DataError, "synthetic/ovenet", "cityscapes"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(runs, baseline, ovenet, error, where, found):
    with pytest.raises(error) as caught:
        open_pair(runs[baseline], runs[ovenet], CITYSCAPES)
    assert str(caught.value.where).endswith(where) and found in caught.value.found


def test_runs_of_other_classes_are_refused(runs):
    with pytest.raises(DataError) as caught:
        open_pair(runs["synthetic/hrnet"], runs["synthetic/ovenet"], CAMVID)
    assert "19" in str(caught.value) and "11" in str(caught.value)


def test_a_run_without_a_checkpoint_is_refused(runs, tmp_path):
    shutil.copytree(runs["synthetic/hrnet"], tmp_path / "unfinished")
    (tmp_path / "unfinished" / "checkpoint.safetensors").unlink()
    with pytest.raises(RunError) as caught:
        open_pair(tmp_path / "unfinished", runs["synthetic/ovenet"], CITYSCAPES)
    assert caught.value.where == tmp_path / "unfinished" / "checkpoint.safetensors"
