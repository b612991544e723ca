"""Evaluation: scores of Cityscapes against cityscapesScripts, sums by condition, images by rule, what is refused."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as official
import cv2
import numpy as np
import pytest
import torch

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import ADE20K, CAMVID, CITYSCAPES, Sample, SegmentationDataset
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.evaluation.boundary_metrics import distance_to, label_boundary
from ovenet_core.evaluation.evaluate import NEAR_PIXELS, evaluate, image_counts, score_table
from ovenet_core.evaluation.metrics import Scores
from ovenet_core.utils import ConfigError, DataError

LABEL_IDS = np.array([next(i for i, t in CITYSCAPES.train_ids.items() if t == c) for c in range(19)], np.uint8)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> list[Sample]:
    """Street scenes in which trains (label id 31) are ignored: a class that does not occur."""
    root = write_scenes(tmp_path_factory.mktemp("synthetic"), split_sizes={"val": 3}, size=(128, 256), progress=False)
    samples = CITYSCAPES.samples(root, "val")
    for path in (path for sample in samples for path in (sample.label, sample.instances)):
        ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        ids[(ids == 31) | (ids.astype(int) // 1000 == 31)] = 3
        cv2.imwrite(str(path), ids)
    return samples


def truth(sample: Sample) -> np.ndarray:
    """The label; at ignored pixels a class that occurs."""
    label = CITYSCAPES.read_label(sample)
    return np.where(label == 255, 13, label).astype(np.uint8)


def noise(sample: Sample) -> np.ndarray:
    label = truth(sample)
    return np.random.default_rng(len(sample.name)).integers(0, 19, label.shape, dtype=np.uint8)


PREDICTIONS: dict[str, Callable[[Sample], np.ndarray]] = {
    "perfect": truth,
    "shifted": lambda sample: np.roll(truth(sample), (2, -3), (0, 1)),
    "random": noise,
    "road only": lambda sample: np.zeros_like(truth(sample)),
    "vehicles as buses": lambda sample: np.where(truth(sample) >= 13, 15, truth(sample)).astype(np.uint8),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_scores_equal_cityscapesscripts(kind, scenes, tmp_path):
    """The four scores of Cityscapes: IoU and iIoU of classes and categories, each with its mean."""
    predict, paths = PREDICTIONS[kind], []
    for sample in scenes:
        paths.append(str(tmp_path / f"{sample.name}.png"))
        cv2.imwrite(paths[-1], LABEL_IDS[predict(sample)])
    options = argparse.Namespace(**vars(official.args) | {"quiet": True, "JSONOutput": False, "evalLabels": []})
    expected = official.evaluateImgLists(paths, [str(sample.label) for sample in scenes], options)

    read = lambda sample: {"S_f": predict(sample)}  # noqa: E731
    found = evaluate(CITYSCAPES, scenes, read, boundaries=False, progress=False)["S_f"].as_dict()
    for ours, theirs, our_mean, their_mean in (
        ("iou", "classScores", "miou", "averageScoreClasses"),
        ("instance_iou", "classInstScores", "mean_instance_iou", "averageScoreInstClasses"),
        ("category_iou", "categoryScores", "mean_category_iou", "averageScoreCategories"),
        ("category_instance_iou", "categoryInstScores", "mean_category_instance_iou", "averageScoreInstCategories"),
    ):
        valid = {name: value for name, value in expected[theirs].items() if not np.isnan(value)}
        assert {name: value for name, value in found[ours].items() if value is not None} == pytest.approx(
            valid, abs=1e-6
        )
        assert found[our_mean] == pytest.approx(expected[their_mean], abs=1e-6)


def test_absent_classes_and_categories_without_instances_have_no_score(scenes):
    found = evaluate(CITYSCAPES, scenes, lambda s: {"S_f": truth(s)}, boundaries=False, progress=False)["S_f"]
    train = CITYSCAPES.class_names.index("train")
    assert np.isnan(found.scores.iou[train]) and np.isnan(found.group_scores["instance_iou"]["train"])
    assert found.as_dict()["iou"]["train"] is None and found.scores.miou == 1
    assert list(found.group_scores["category_instance_iou"]) == ["human", "vehicle"]


# -- A small set with conditions, labels by hand


@pytest.fixture
def camvid(tmp_path) -> list[Sample]:
    """Two images of the day and one at dusk; labels of 20x30 with an ignored row."""
    for index, name in enumerate(("0006R0_a", "0001TP_b", "Seq05VD_c")):
        label = np.full((20, 30), index, np.uint8)
        label[:, 10 + index :] = 5
        label[0] = 11
        for folder, image in (("val", np.zeros((20, 30, 3), np.uint8)), ("valannot", label)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{name}.png"), image)
    return CAMVID.samples(tmp_path, "val")


def guesses(sample: Sample) -> dict[str, np.ndarray | torch.Tensor]:
    """S_i is class 5 everywhere, S_f is right but for one column; the latter as a tensor."""
    label = CAMVID.read_label(sample)
    right = np.where(label == 255, 0, label).astype(np.uint8)
    right[:, 3] = 7
    return {"S_i": np.full_like(right, 5), "S_f": torch.from_numpy(right)}


def confusion(samples: list[Sample], output: str) -> np.ndarray:
    """Counted pixel by pixel."""
    counts = np.zeros((11, 11))
    for sample in samples:
        pairs = zip(CAMVID.read_label(sample).ravel(), np.asarray(guesses(sample)[output]).ravel(), strict=True)
        for label, prediction in pairs:
            if label != 255:
                counts[label, prediction] += 1
    return counts


def test_outputs_are_scored_side_by_side_overall_and_by_condition(camvid):
    found = evaluate(CAMVID, camvid, guesses, progress=False)
    assert list(found) == ["S_i", "S_f"]
    for output, evaluation in found.items():
        assert list(evaluation.conditions) == ["day", "dusk"]
        np.testing.assert_array_equal(evaluation.counts.confusion, confusion(camvid, output))
        for condition, part in evaluation.conditions.items():
            expected = confusion([s for s in camvid if s.condition == condition], output)
            np.testing.assert_array_equal(part.counts.confusion, expected)


def test_boundary_counts_of_the_conditions_add_up(camvid):
    found = evaluate(CAMVID, camvid, guesses, progress=False)["S_f"]
    day, dusk = (part.counts.boundaries for part in found.conditions.values())
    for name, total in vars(found.counts.boundaries).items():
        assert total.sum() > 0
        np.testing.assert_array_equal(total, getattr(day, name) + getattr(dusk, name))


def test_scores_of_images_are_theirs_alone(camvid):
    found = evaluate(CAMVID, camvid, guesses, progress=False)["S_f"]
    assert [image.name for image in found.images] == [sample.name for sample in camvid]
    for sample, image in zip(camvid, found.images, strict=True):
        scores = Scores(confusion([sample], "S_f"))
        assert (image.miou, image.pixel_accuracy) == (scores.miou, scores.pixel_accuracy)
    without = evaluate(CAMVID, camvid, guesses, boundaries=False, progress=False)["S_f"]
    assert without.images == tuple(image._replace(pairs=()) for image in found.images)


def test_counts_of_images_are_all_pixels_and_those_near_boundaries(camvid):
    found = evaluate(CAMVID, camvid, guesses, progress=False)
    counts = image_counts(found)
    for (output, name), cells in counts.groupby(["output", "image"]):
        (sample,) = [s for s in camvid if s.name == name]
        whole, near = np.zeros((2, CAMVID.num_classes, CAMVID.num_classes))
        whole[cells["label"], cells["prediction"]] = cells["pixels"]
        near[cells["label"], cells["prediction"]] = cells["near"]
        np.testing.assert_array_equal(whole, confusion([sample], output))
        label = CAMVID.read_label(sample)
        there = distance_to(label_boundary(label)) < NEAR_PIXELS
        assert near.sum() == (there & (label != IGNORE_INDEX)).sum() and (near <= whole).all()


def test_an_image_without_a_label_has_no_score(camvid):
    cv2.imwrite(str(camvid[0].label), np.full((20, 30), 11, np.uint8))
    found = evaluate(CAMVID, camvid, guesses, progress=False)["S_f"]
    assert found.images[0].as_dict() == {"name": camvid[0].name, "miou": None, "pixel_accuracy": None}
    assert camvid[0].name not in [image.name for image in found.ranked()]


def test_images_are_ranked_from_worst_to_best_and_equal_ones_by_name(camvid):
    found = evaluate(CAMVID, camvid, guesses, progress=False)["S_f"]
    scores = [0.5, float("nan"), 0.25]
    twins = (*found.images, found.images[0]._replace(name="twin"))
    images = tuple(p._replace(miou=m) for p, m in zip(twins, [*scores, 0.25], strict=True))
    names = [image.name for image in replace(found, images=images).ranked()]
    assert names == [camvid[2].name, "twin", camvid[0].name]


def test_workers_do_not_change_the_scores(camvid):
    one, three = (evaluate(CAMVID, camvid, guesses, workers=n, progress=False)["S_f"] for n in (1, 3))
    assert one.as_dict() == three.as_dict() and one.images == three.images


def test_with_one_worker_predictions_are_read_in_turn(camvid):
    seen: list[str] = []
    evaluate(CAMVID, camvid, lambda s: seen.append(s.name) or guesses(s), workers=1, progress=False)
    assert seen == [sample.name for sample in camvid]


def test_as_dict_is_json_and_keeps_the_names_of_a_run(camvid):
    result = evaluate(CAMVID, camvid, guesses, progress=False)["S_f"].as_dict()
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    expected = Scores(confusion(camvid, "S_f")).as_dict(CAMVID.class_names)
    assert {name: result[name] for name in expected} == expected
    assert set(result) - set(expected) == {"boundaries", "conditions"}
    assert set(result["conditions"]["dusk"]) == {*expected, "boundaries"}


def test_a_table_of_scores_has_those_of_the_result_in_percent(camvid):
    evaluations = evaluate(CAMVID, camvid, guesses, progress=False)
    results = {output: evaluation.as_dict() for output, evaluation in evaluations.items()}
    means, by_class = score_table(results), score_table(results, by="class")
    by_condition, by_distance = score_table(results, by="condition"), score_table(results, by="distance")
    assert list(by_class.columns.levels[0].sort_values()) == ["boundary_f", "boundary_iou", "iou"]
    assert list(by_class.index) == list(CAMVID.class_names) and list(by_condition.index) == ["day", "dusk"]
    for output, evaluation in evaluations.items():
        assert means.loc["miou", output] == 100 * evaluation.scores.miou
        assert means.loc["mean_boundary_f", output] == 100 * results[output]["boundaries"]["mean_boundary_f"]
        np.testing.assert_array_equal(by_class["iou", output], 100 * evaluation.scores.iou)
        assert by_condition.loc["dusk", output] == 100 * evaluation.conditions["dusk"].scores.miou
        assert by_distance.loc[4, output] == 100 * evaluation.counts.boundaries.trimap[4].miou
    assert score_table(results, by="category").empty and score_table(results, by="instance").empty
    with pytest.raises(ConfigError) as error:
        score_table(results, by="clas")
    assert error.value.where == "by" and "class" in error.value.expected


def test_a_table_of_categories_and_instances_has_those_that_have_scores(scenes):
    found = evaluate(CITYSCAPES, scenes, lambda s: {"S_f": noise(s)}, boundaries=False, progress=False)["S_f"]
    result = {"S_f": found.as_dict()}
    by_category, by_instance = score_table(result, by="category"), score_table(result, by="instance")
    assert list(by_category.index) == list(found.group_scores["category_iou"])
    assert by_category["category_instance_iou", "S_f"].dropna().to_dict() == {
        name: 100 * iou for name, iou in found.group_scores["category_instance_iou"].items()
    }
    assert list(by_instance.index) == list(found.group_scores["instance_iou"])


def refused(dataset: SegmentationDataset, samples: list[Sample], read: Callable) -> DataError:
    with pytest.raises(DataError) as error:
        evaluate(dataset, samples, read, progress=False)
    return error.value


@pytest.mark.parametrize(("prediction", "found", "expected"), [
    (np.zeros((30, 20), np.uint8), "shape (30, 20)", "uint8 of shape (20, 30)"),
    (np.zeros((20, 30), np.int64), "int64", "uint8"),
    (np.full((20, 30), 11, np.uint8), "[11]", "0 to 10"),
    (np.full((20, 30), 255, np.uint8), "[255]", "0 to 10"),
])  # fmt: skip
def test_a_prediction_that_does_not_fit_is_named(camvid, prediction, found, expected):
    name = camvid[1].name
    error = refused(CAMVID, camvid, lambda s: {"S_i": prediction if s.name == name else guesses(s)["S_i"]})
    assert error.where == f"{name}, S_i"
    assert found in error.found and expected in error.expected


def test_outputs_that_change_are_named(camvid):
    last = camvid[-1].name
    error = refused(CAMVID, camvid, lambda s: {"S_i": guesses(s)["S_i"]} if s.name == last else guesses(s))
    assert error.where == last and "S_f" not in error.found and "S_i, S_f" in error.expected


def test_withheld_labels_and_empty_splits_are_refused(camvid):
    assert refused(CAMVID, [replace(camvid[0], label=None)], guesses).where == camvid[0].image
    assert refused(CAMVID, [], guesses).where == "camvid"


@pytest.mark.parametrize(
    ("damage", "found"), [("missing", "No such file"), ("bytes", "uint16"), ("smaller", "127x256")]
)
def test_damaged_instances_are_named(scenes, tmp_path, damage, found):
    path = tmp_path / "instances.png"
    if damage != "missing":
        ids = cv2.imread(str(scenes[0].instances), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), ids.astype(np.uint8) if damage == "bytes" else ids[1:])
    error = refused(CITYSCAPES, [replace(scenes[0], instances=path)], lambda s: {"S_f": truth(s)})
    assert error.where == path and found in f"{error.found} {error.expected}"


def test_without_instances_there_are_no_instance_scores(scenes):
    found = evaluate(CITYSCAPES, [replace(s, instances=None) for s in scenes], lambda s: {"S_f": truth(s)},
                     boundaries=False, progress=False)["S_f"]  # fmt: skip
    assert list(found.group_scores) == ["category_iou"] and found.group_scores["category_iou"]["flat"] == 1
    assert "instance_iou" not in found.as_dict()


def test_perfect_predictions_of_real_ade20k_images_score_one(shared: Path):
    """The few of its 150 classes that occur; mean accuracy and pixel accuracy as well."""
    samples = ADE20K.samples(shared / "datasets" / "ade20k_samples", "val")
    read = lambda s: {"S_i": np.where((n := ADE20K.read_label(s)) == 255, 0, n).astype(np.uint8)}  # noqa: E731
    scores = evaluate(ADE20K, samples, read, progress=False)["S_i"].scores
    assert len(samples) == 3
    assert 3 < np.count_nonzero(scores.iou == 1) < 100 and np.isnan(scores.iou[scores.iou != 1]).all()
    assert scores.miou == scores.pixel_accuracy == scores.mean_accuracy == 1
