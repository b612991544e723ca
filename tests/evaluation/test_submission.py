"""Archives for the evaluation servers: names, values, the same bytes, and every fault found on reading back."""

import csv
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import CITYSCAPES, Sample, SegmentationDataset, get_dataset
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.evaluation.metrics import Scores, confusion_matrix
from ovenet_core.evaluation.predictions import SavedPredictions
from ovenet_core.evaluation.submission import check_archive, read_scores, server_score_template, write_archive
from ovenet_core.utils import DataError

WEATHER, PLACES = get_dataset("acdc"), get_dataset("ade20k")
ALLEYS = SegmentationDataset(  # a dataset of one's own, with values in no order
    name="alleys",
    class_names=("road", "house", "sky"),
    colours=((1, 1, 1), (2, 2, 2), (3, 3, 3)),
    train_ids={9: 0, 4: 1, 200: 2, 0: IGNORE_INDEX},
    images=("{split}/*.png",),
    labels=("{split}/*_label.png",),
    splits={"test": ("test",)},
)


def predicted(data: SegmentationDataset, folder: Path, names: list[str], size: tuple[int, int] = (40, 60)):
    """Images of these names, and random predictions that hold every class of them."""
    rng, samples = np.random.default_rng(0), []
    saved = SavedPredictions(folder / "predictions", ("S_i", "S_f"))
    for name in names:
        image = folder / f"{name}.png"
        cv2.imwrite(str(image), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        samples.append(Sample(name, image, None))
        ids = np.arange(size[0] * size[1], dtype=np.int64).reshape(size) % data.num_classes
        for output, values in (("S_i", np.zeros_like(ids)), ("S_f", rng.permuted(ids))):
            path = saved.path(samples[-1], output)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), values.astype(np.uint8))
    return samples, saved


def content(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return {
            name: cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_UNCHANGED)
            for name in archive.namelist()
        }


@pytest.mark.parametrize(
    ("data", "name", "file", "values"),
    [
        # cityscapesScripts, labels.py: road is 7, bicycle is 33.
        (CITYSCAPES, "berlin_000000_000019", "berlin_000000_000019_pred_labelIds.png", {0: 7, 10: 23, 18: 33}),
        (
            WEATHER,
            "GOPR0122_frame_000161",
            "labelTrainIds/GOPR0122_frame_000161_rgb_anon.png",
            {0: 0, 10: 10, 18: 18},
        ),
        (PLACES, "ADE_test_00000001", "ADE_test_00000001.png", {0: 1, 149: 150}),
        (ALLEYS, "a1", "a1.png", {0: 9, 1: 4, 2: 200}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_names_and_values_are_those_that_the_server_asks_for(tmp_path, data, name, file, values):
    samples, saved = predicted(data, tmp_path, [name])
    archive = content(write_archive(data, samples, saved, tmp_path / "archive.zip", progress=False))
    assert list(archive) == [file]
    ids, pixels = saved.read(samples[0])["S_f"], archive[file]
    assert (pixels.dtype, pixels.shape) == (np.uint8, (40, 60))
    for train_id, value in values.items():
        assert set(pixels[ids == train_id]) == {value}


def test_the_same_predictions_give_the_same_bytes_in_any_order(tmp_path):
    samples, saved = predicted(CITYSCAPES, tmp_path, ["b_000000_000001", "a_000000_000002"])
    one = write_archive(CITYSCAPES, samples, saved, tmp_path / "one.zip", progress=False)
    two = write_archive(CITYSCAPES, samples[::-1], saved, tmp_path / "new" / "two.zip", progress=False)
    assert one.read_bytes() == two.read_bytes()
    assert check_archive(one, CITYSCAPES, samples, progress=False) == []


def test_a_missing_prediction_leaves_no_archive(tmp_path):
    samples, saved = predicted(CITYSCAPES, tmp_path, ["b_000000_000001", "a_000000_000002"])
    saved.path(samples[0], "S_f").unlink()
    with pytest.raises(DataError) as error:
        write_archive(CITYSCAPES, samples, saved, tmp_path / "archive.zip", progress=False)
    assert error.value.where == saved.path(samples[0], "S_f")
    assert not list(tmp_path.glob("*archive*"))


def test_predictions_of_another_size_leave_no_archive_and_keep_the_old_one(tmp_path):
    samples, saved = predicted(CITYSCAPES, tmp_path, ["b_000000_000001"])
    path = write_archive(CITYSCAPES, samples, saved, tmp_path / "archive.zip", progress=False)
    before = path.read_bytes()
    cv2.imwrite(str(saved.path(samples[0], "S_f")), np.zeros((20, 30), np.uint8))
    with pytest.raises(DataError) as error:
        write_archive(CITYSCAPES, samples, saved, path, progress=False)
    assert error.value.where == path and "1 faults" in error.value.found and "30x20" in error.value.found
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.glob("*archive*")] == ["archive.zip"]


# -- Archives with faults


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


FILE = "b_000000_000001_pred_labelIds.png"
ROAD = np.full((40, 60), 7, np.uint8)


def with_header(length: int = 13, side: int = 60) -> bytes:
    """An image whose header (IHDR) tells another length of itself, or another size of the image."""
    header = b"IHDR" + struct.pack(">II", side, side) + bytes([8, 0, 0, 0, 0])
    data = png(ROAD)
    return data[:8] + struct.pack(">I", length) + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


DAMAGED = FILE, "damaged", "PNG"
FAULTS = {  # files of the archive; file, found, expected of the fault
    "missing": ({}, (FILE, "no file", "one")),
    "extra": ({FILE: png(ROAD), "notes.txt": b"text"}, ("notes.txt", "of no image", FILE)),
    "by another name": ({"b_000000_000001.png": png(ROAD)}, (FILE, "no file", "one")),
    "smaller": ({FILE: png(ROAD[:20])}, (FILE, "60x20", "60x40")),
    "rotated": ({FILE: png(ROAD.T.copy())}, (FILE, "40x60", "60x40")),
    "colour": ({FILE: png(np.dstack([ROAD] * 3))}, (FILE, "mode RGB", "mode L")),
    "16 bit": ({FILE: png(ROAD.astype(np.uint16))}, (FILE, "mode I;16", "mode L")),
    "train ids": ({FILE: png(ROAD - np.arange(60, dtype=np.uint8) % 7)}, (FILE, "values 1 to 6", "7 to 8, 11 to 13")),
    "ignored pixels": ({FILE: png(ROAD | np.uint8(248) * (ROAD.cumsum(1) < 70))}, (FILE, "values 255", "7 to 8,")),
    "no PNG": ({FILE: cv2.imencode(".jpg", ROAD)[1].tobytes()}, (FILE, "JPEG", "PNG")),
    "cut": ({FILE: png(np.random.default_rng(0).choice([7, 8], (40, 60)).astype(np.uint8))[:-60]}, DAMAGED),
    "empty": ({FILE: b""}, DAMAGED),
    "damaged header": ({FILE: with_header(length=5)}, DAMAGED),
    "a header of 60000x60000": ({FILE: with_header(side=60000)}, DAMAGED),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_named_with_its_remedy(tmp_path, fault):
    samples, _ = predicted(CITYSCAPES, tmp_path, ["b_000000_000001"])
    files, (file, found, expected) = FAULTS[fault]
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    faults = check_archive(tmp_path / "archive.zip", CITYSCAPES, samples, progress=False)
    (named,) = [one for one in faults if one.where == file]
    assert found in named.found and expected in named.expected and named.fix


def test_a_damaged_compressed_archive_is_named(tmp_path):
    samples, _ = predicted(CITYSCAPES, tmp_path, ["b_000000_000001"])
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(FILE, png(np.random.default_rng(0).choice([7, 8], (40, 60)).astype(np.uint8)))
    data = bytearray(path.read_bytes())
    data[60 + len(FILE) : 90 + len(FILE)] = bytes(30)
    path.write_bytes(data)
    (fault,) = check_archive(path, CITYSCAPES, samples, progress=False)
    assert fault.where == FILE and "damaged" in fault.found


def test_a_file_that_is_there_twice_is_found(tmp_path):
    samples, _ = predicted(CITYSCAPES, tmp_path, ["b_000000_000001"])
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr(FILE, png(ROAD))
    (fault,) = check_archive(tmp_path / "archive.zip", CITYSCAPES, samples, progress=False)
    assert (fault.where, fault.found) == (FILE, "2 files")


def test_label_values_are_found_where_train_ids_are_asked_for(tmp_path):
    samples, _ = predicted(WEATHER, tmp_path, ["GOPR0122_frame_000161"])
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(WEATHER.server_file(samples[0]), png(np.full((40, 60), 26, np.uint8)))
    (fault,) = check_archive(tmp_path / "archive.zip", WEATHER, samples, progress=False)
    assert fault.found == "values 26" and fault.expected.startswith("0 to 18,")


def test_a_changed_byte_is_found(tmp_path):
    samples, saved = predicted(CITYSCAPES, tmp_path, ["b_000000_000001", "a_000000_000002"])
    path = write_archive(CITYSCAPES, samples, saved, tmp_path / "archive.zip", progress=False)
    data = bytearray(path.read_bytes())
    data[300] ^= 255
    path.write_bytes(data)
    (fault,) = check_archive(path, CITYSCAPES, samples, progress=False)
    assert "a_000000_000002" in fault.where and "damaged" in fault.found


@pytest.mark.parametrize("content", [None, b"", b"no archive"])
def test_what_is_no_archive_is_one_fault(tmp_path, content):
    path = tmp_path / "archive.zip"
    if content is not None:
        path.write_bytes(content)
    (fault,) = check_archive(path, CITYSCAPES, [], progress=False)
    assert fault.where == path and fault.expected == "a readable zip file"


def test_folders_in_the_archive_are_no_fault(tmp_path):
    samples, saved = predicted(WEATHER, tmp_path, ["GOPR0122_frame_000161"])
    path = write_archive(WEATHER, samples, saved, tmp_path / "archive.zip", progress=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labelTrainIds/", b"")
    assert check_archive(path, WEATHER, samples, progress=False) == []


# -- The owners' own evaluation


def test_cityscapes_scripts_find_and_score_the_archive_as_we_do(tmp_path, monkeypatch, capsys):
    root = write_scenes(tmp_path / "synthetic", split_sizes={"val": 3}, size=(64, 128), progress=False)
    samples = CITYSCAPES.samples(root, "val")
    saved, rng = SavedPredictions(tmp_path / "predictions", ("S_f",)), np.random.default_rng(0)
    (saved.folder / "S_f").mkdir(parents=True)
    matrices = []
    for sample in samples:  # right but for noise, and something where the label is ignored
        label = CITYSCAPES.read_label(sample)
        noise = rng.integers(0, 19, label.shape, dtype=np.uint8)
        ids = np.where((rng.random(label.shape) < 0.3) | (label == IGNORE_INDEX), noise, label)
        cv2.imwrite(str(saved.path(sample, "S_f")), ids)
        matrices.append(confusion_matrix(torch.from_numpy(ids), torch.from_numpy(label), CITYSCAPES.num_classes))

    archive = write_archive(CITYSCAPES, samples, saved, tmp_path / "archive.zip", progress=False)
    zipfile.ZipFile(archive).extractall(tmp_path / "results")
    monkeypatch.setenv("CITYSCAPES_RESULTS", str(tmp_path / "results"))
    for name, value in {"predictionPath": None, "predictionWalk": None, "quiet": True, "JSONOutput": False}.items():
        monkeypatch.setattr(official.args, name, value)
    truth = [str(sample.label) for sample in samples]
    found = [official.getPrediction(official.args, path) for path in truth]
    scores = official.evaluateImgLists(found, truth, official.args)
    ours = dict(zip(CITYSCAPES.class_names, Scores(sum(matrices)).iou, strict=True))
    assert np.isfinite(list(ours.values())).sum() > 5
    for name, iou in ours.items():
        theirs = scores["classScores"][name]
        assert (np.isnan(iou) and np.isnan(theirs)) or iou == pytest.approx(theirs, abs=1e-9), name


# -- The answer of a server


def filled(path: Path, data: SegmentationDataset, values: dict[tuple[str, str, str], str]) -> Path:
    """The form of the test split with some values."""
    rows = server_score_template(data, "test")
    for row in rows:
        row["value"] = values.get((row["condition"], row["class"], row["metric"]), "")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_form_filled_in_becomes_scores_as_in_a_result(tmp_path):
    values = {
        ("", "", "miou"): "73.0",
        ("", "road", "iou"): "95.8",
        ("fog", "", "miou"): "72.1",
        ("fog", "bus", "iou"): "0",
    }
    scores = read_scores(filled(tmp_path / "server.csv", WEATHER, values), WEATHER)
    fog = {"miou": 0.721, "iou": {"bus": 0}}
    assert scores == {"test": {"miou": 0.73, "iou": {"road": 0.958}, "conditions": {"fog": fog}}}


@pytest.mark.parametrize("table", [1, 2, 3])
def test_every_score_that_the_paper_has_of_a_test_split_is_in_the_form(table):
    from ovenet_core.study import paper

    printed = paper.read(f"table{table}")
    for name, rows in printed.groupby("benchmark"):
        form = {tuple(row.values())[1:4] for row in server_score_template(get_dataset(name), "test")}
        conditions = rows["condition"].replace("all", "") if "condition" in rows else pd.Series("", rows.index)
        classes = rows["class"] if "class" in rows else pd.Series("", rows.index)
        assert set(zip(conditions, classes, rows["metric"], strict=True)) <= form


def test_an_empty_form_has_no_scores(tmp_path):
    assert read_scores(filled(tmp_path / "server.csv", CITYSCAPES, {}), CITYSCAPES) == {}


@pytest.mark.parametrize(
    ("line", "where", "found"),
    [
        ("test,,raod,iou,81", ", line 2", "test, raod, iou: no score of cityscapes"),
        ("tets,,road,iou,81", ", line 2", "tets, road, iou: no score of cityscapes"),
        ("test,fog,road,iou,81", ", line 2", "test, fog, road, iou: no score of cityscapes"),
        ("test,,road,miou,81", ", line 2", "test, road, miou: no score of cityscapes"),
        ("test,,,miou,81\ntest,,,miou,82", ", line 3", "test, miou: a second time"),
        ("test,,,miou,81.8%", ", line 2", "value '81.8%'"),
        ("test,,,miou,818", ", line 2", "value '818'"),
        ("test,,,miou,-3", ", line 2", "value '-3'"),
        ("test,,,miou,nan", ", line 2", "value 'nan'"),
        ("test,,,miou,0.818\ntest,,road,iou,0.98", "", "no value above 1"),
        ("test,,,miou,81,8", ", line 2", "columns split, condition, class, metric, value, more"),
    ],
)
def test_a_form_with_a_fault_is_refused_with_its_line(tmp_path, line, where, found):
    path = tmp_path / "server.csv"
    path.write_text(f"split,condition,class,metric,value\n{line}\n")
    with pytest.raises(DataError) as error:
        read_scores(path, CITYSCAPES)
    assert (str(error.value.where), error.value.found) == (f"{path}{where}", found)


def test_other_columns_are_refused(tmp_path):
    (tmp_path / "server.csv").write_text("class,iou\nroad,98\n")
    with pytest.raises(DataError) as error:
        read_scores(tmp_path / "server.csv", CITYSCAPES)
    assert error.value.found == "columns class, iou"
    assert error.value.expected == "split, condition, class, metric, value"
