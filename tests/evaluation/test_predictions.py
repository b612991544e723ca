"""The predictions of a split on disk: read back, kept, refused, made anew, and continued after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from ovenet_core.data import CITYSCAPES
from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.evaluation.inference import SIX_SCALES, predict_classes
from ovenet_core.evaluation.predictions import SavedPredictions, predict_split
from ovenet_core.ovenet import build
from ovenet_core.utils import ConfigError, DataError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("synthetic"), split_sizes={"val": 5}, size=(64, 128), progress=False)


@pytest.fixture(scope="module")
def samples(scenes):
    return CITYSCAPES.samples(scenes, "val")


def pngs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def split(network, samples, folder, **options) -> SavedPredictions:
    options = {"identity": {"run": "a"}, "progress": False} | options
    return predict_split(network, CITYSCAPES, samples, folder, **options)


def test_a_split_is_read_back_as_it_was_predicted(network, samples, tmp_path):
    saved = split(network, samples, tmp_path)
    for sample in samples:
        expected = predict_classes(network, CITYSCAPES.read_image(sample))
        assert {name: ids.tolist() for name, ids in saved.read(sample).items()} == {
            name: ids.tolist() for name, ids in expected.items()
        }


def test_files_are_single_channel_png_of_the_images_size(network, samples, tmp_path):
    saved = split(network, samples[:1], tmp_path)
    stored = cv2.imread(str(saved.path(samples[0], "S_f")), cv2.IMREAD_UNCHANGED)
    assert (stored.shape, stored.dtype) == ((64, 128), np.uint8)


def test_two_runs_give_the_same_bytes(network, samples, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        split(network, samples, folder)
    assert len(pngs(folders[0])) == 15
    assert pngs(folders[0]) == pngs(folders[1])


def test_what_is_there_is_not_predicted_again(network, samples, tmp_path):
    saved = split(network, samples[:3], tmp_path)
    dates = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    split(network, samples, tmp_path)
    assert all(path.stat().st_mtime_ns == date for path, date in dates.items())
    assert all(saved.has(sample) for sample in samples)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "no image", "of another mode", "missing"])
def test_a_damaged_file_is_refused_and_predicted_anew(network, samples, tmp_path, damage):
    saved = split(network, samples[:2], tmp_path)
    before, path = pngs(tmp_path), saved.path(samples[1], "S_s")
    data = path.read_bytes()
    middle = len(data) // 2
    changed = data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
    coloured = cv2.imencode(".png", np.zeros((64, 128, 3), np.uint8))[1].tobytes()
    contents = {
        "cut": data[:middle],
        "changed": changed,
        "empty": b"",
        "no image": b"text" * 9,
        "of another mode": coloured,
    }
    path.unlink() if damage == "missing" else path.write_bytes(contents[damage])
    with pytest.raises(DataError) as error:
        saved.read(samples[1])
    assert error.value.where == path
    split(network, samples[:2], tmp_path)
    assert pngs(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({"identity": {"run": "b"}}, "run: 'a'", "run: 'b'"),
        ({"identity": {"run": "a", "data": 1}}, "data: None", "data: 1"),
        ({"inference": SIX_SCALES}, "inference.scales: [1.0]", "inference.scales: [0.5, 0.75"),
        ({"outputs": ["S_f"]}, "outputs: ['S_i', 'S_s', 'S_f']", "outputs: ['S_f']"),
        ({"image_size": (32, 64)}, "image_size: None", "image_size: [32, 64]"),
    ],
)
def test_a_folder_of_another_identity_is_refused_and_kept(network, samples, tmp_path, change, found, expected):
    split(network, samples[:1], tmp_path)
    before = pngs(tmp_path)
    with pytest.raises(DataError) as error:
        split(network, samples, tmp_path, **change)
    assert error.value.where == tmp_path
    assert found in error.value.found and expected in error.value.expected
    assert pngs(tmp_path) == before


def test_a_folder_with_other_files_is_refused(network, samples, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError) as error:
        split(network, samples, tmp_path)
    assert error.value.where == tmp_path and "thesis.txt" in error.value.found


def test_outputs_can_be_chosen_and_a_baseline_has_one(network, samples, tmp_path):
    assert list(split(network, samples[:1], tmp_path / "f", outputs=["S_f"]).read(samples[0])) == ["S_f"]
    baseline = build(width=8, blocks=1, branch_stage=None)
    assert list(split(baseline, samples[:1], tmp_path / "i").read(samples[0])) == ["S_i"]
    with pytest.raises(ConfigError):
        split(baseline, samples[:1], tmp_path / "i", outputs=["S_f"])


def test_two_images_of_one_name_are_refused(network, samples, tmp_path):
    with pytest.raises(DataError) as error:
        split(network, [*samples, samples[0]], tmp_path)
    assert error.value.where == samples[0].name


def killable() -> nn.Module:
    torch.manual_seed(0)
    return build(width=8, blocks=1).eval()


KILLED = """
import sys, time, torch
from ovenet_core.data import CITYSCAPES
from ovenet_core.ovenet import build
from ovenet_core.evaluation.predictions import predict_split
torch.manual_seed(0)
network = build(width=8, blocks=1).eval()
network.register_forward_hook(lambda *_: time.sleep(0.3))
samples = CITYSCAPES.samples(sys.argv[1], "val")
predict_split(network, CITYSCAPES, samples, sys.argv[2], identity={"run": "a"}, progress=False)
"""


def test_killed_in_the_middle_it_goes_on_and_leaves_the_same_bytes(scenes, samples, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(scenes), str(killed)])
    deadline = time.monotonic() + 120
    while len(pngs(killed)) < 4:
        assert process.poll() is None and time.monotonic() < deadline, "it should be predicting now"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 4 <= len(pngs(killed)) < 15
    for folder in (killed, whole):
        split(killable(), samples, folder)
    assert len(pngs(killed)) == 15
    assert pngs(killed) == pngs(whole)
    assert (killed / "identity.json").read_bytes() == (whole / "identity.json").read_bytes()
