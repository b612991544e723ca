"""Generated scenes: the same bytes for the same seed, exact labels, and all that Cityscapes has."""

import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovenet_core import scenes
from ovenet_core.benchmarks import CITYSCAPES, CITYSCAPES_LABELS, DataError
from ovenet_core.scenes import draw_scene, write_scenes
from ovenet_core.street import Face

SMALL = {"size": (32, 64), "progress": False}


@pytest.fixture(scope="module")
def drawn() -> list[scenes.Scene]:
    return [draw_scene(seed, 128, 256) for seed in range(16)]


def contents(root: Path, below: str = "*/*/*/*.png") -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob(below)}


# -- Drawing


def test_same_seed_draws_the_same_in_another_process():
    scene = draw_scene(5, 48, 96)
    here = [zlib.crc32(array.tobytes()) for array in (scene.image, scene.label_ids, scene.instance_ids)]
    code = ("import zlib; from ovenet_core.scenes import draw_scene; s = draw_scene(5, 48, 96); "
            "print([zlib.crc32(a.tobytes()) for a in (s.image, s.label_ids, s.instance_ids)])")
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           cwd=Path(__file__).parents[1]).stdout
    assert str(here) == there.strip()


def test_other_seeds_draw_other_streets(drawn):
    assert len({scene.label_ids.tobytes() for scene in drawn}) == len(drawn)


@settings(max_examples=10, deadline=None)
@given(height=st.integers(16, 90), width=st.integers(16, 120), seed=st.integers(0, 2**31))
def test_any_size_can_be_drawn(height, width, seed):
    scene = draw_scene(seed, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.label_ids.shape == scene.instance_ids.shape == (height, width)


def test_another_size_shows_the_same_street(drawn):
    large = draw_scene(3, 256, 512).label_ids
    small = cv2.resize(large, (256, 128), interpolation=cv2.INTER_NEAREST_EXACT)
    assert (small == drawn[3].label_ids).mean() > 0.93


def test_all_classes_occur(drawn):
    counts = sum(np.bincount(CITYSCAPES.lookup[scene.label_ids].ravel(), minlength=256) for scene in drawn)
    assert {CITYSCAPES.class_names[i] for i in range(19) if counts[i] < 100} == set()


def test_the_rare_vehicles_come_in_any_four_scenes(drawn):
    rare = [CITYSCAPES.class_names.index(name) for name in ("bus", "train", "motorcycle", "truck")]
    for start in range(0, 16, 4):
        found = np.unique([CITYSCAPES.lookup[scene.label_ids] for scene in drawn[start:start + 4]])
        assert set(rare) <= set(found.tolist())


def test_some_pixels_are_void(drawn):
    share = np.mean([CITYSCAPES.lookup[scene.label_ids] == 255 for scene in drawn])
    assert 0.005 < share < 0.1


def test_instances_agree_with_labels(drawn):
    has_instances = np.zeros(256, bool)
    has_instances[[label.id for label in CITYSCAPES_LABELS if label.has_instances]] = True
    for scene in drawn:
        things = has_instances[scene.label_ids]
        expected = np.where(things, scene.instance_ids // 1000, scene.instance_ids)
        np.testing.assert_array_equal(expected, scene.label_ids)
        assert (scene.instance_ids[things] >= 1000).all()


def test_every_rider_sits_on_something(drawn):
    rider, cycles = scenes.LABEL_ID["rider"], [scenes.LABEL_ID[name] for name in ("bicycle", "motorcycle")]
    for scene in drawn:
        around = cv2.dilate((scene.label_ids == rider).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.isin(scene.label_ids[around], cycles).any()


def test_thin_structures_are_thin(drawn):
    """Most of the poles vanish under an opening by 9x9 pixels; cars do not."""
    def kept(name: str) -> float:
        masks = [(scene.label_ids == scenes.LABEL_ID[name]).astype(np.uint8) for scene in drawn]
        opened = [cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8)) for mask in masks]
        return np.sum(opened) / np.sum(masks)
    assert kept("pole") < 0.1
    assert kept("car") > 0.7


def test_image_has_edges_where_the_label_has_borders(drawn):
    for scene in drawn:
        grey = cv2.GaussianBlur(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(float)
        step, border = np.abs(np.diff(grey, axis=1)), np.diff(scene.label_ids.astype(int), axis=1) != 0
        assert step[border].mean() > 2 * step[~border].mean()


@settings(max_examples=40, deadline=None)
@given(corners=st.lists(st.tuples(st.floats(-4, 4), st.floats(0, 4)), min_size=3, max_size=3))
def test_colours_and_labels_have_the_same_outline(corners):
    camera = scenes._Camera(0, 64, 128)
    points = np.array([[(x, y, 12.0) for x, y in corners]])
    camera.paint([Face(points, (255.0, 255.0, 255.0), 7)], haze=False)
    colours, ids = (camera.image[..., 2] > 110).astype(np.uint8), (camera.ids == 7).astype(np.uint8)
    pixel = np.ones((3, 3), np.uint8)
    assert not (colours & ~cv2.dilate(ids, pixel) & 1).any()
    assert not (ids & ~cv2.dilate((camera.image[..., 2] > 0).astype(np.uint8), pixel) & 1).any()


@pytest.mark.parametrize("arguments", [(-1, 64, 64), (0, 15, 64), (0, 64, 15)])
def test_impossible_seed_or_size_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        draw_scene(*arguments)


# -- Writing


def test_written_scenes_are_read_back(tmp_path):
    root = write_scenes(tmp_path / "set", split_sizes={"val": 1}, seed=2, **SMALL)
    (sample,) = CITYSCAPES.samples(root, "val")
    image, label = CITYSCAPES.read(sample)
    scene = draw_scene((2 * 3 + 1) * 1_000_000, 32, 64)
    np.testing.assert_array_equal(image, scene.image)
    np.testing.assert_array_equal(label, CITYSCAPES.lookup[scene.label_ids])
    np.testing.assert_array_equal(cv2.imread(str(sample.instances), cv2.IMREAD_UNCHANGED), scene.instance_ids)


def test_a_scene_does_not_depend_on_the_rest_of_the_set(tmp_path):
    one = write_scenes(tmp_path / "one", split_sizes={"val": 1}, **SMALL)
    more = write_scenes(tmp_path / "more", split_sizes={"train": 2, "val": 2}, **SMALL)
    assert contents(one).items() <= contents(more).items()


def test_splits_have_different_scenes_under_different_names(tmp_path):
    root = write_scenes(tmp_path, split_sizes={"train": 1, "val": 1, "test": 1}, **SMALL)
    images = contents(root, "leftImg8bit/*/*/*.png")
    assert len(set(images.values())) == len({Path(name).name for name in images}) == 3


def test_a_set_that_is_there_is_kept(tmp_path):
    first = write_scenes(tmp_path, split_sizes={"train": 1}, **SMALL)
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    second = write_scenes(tmp_path, split_sizes={"train": 1}, **SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in second.rglob("*")}


def test_an_interrupted_set_is_drawn_anew(tmp_path, monkeypatch):
    whole = contents(write_scenes(tmp_path / "whole", split_sizes={"train": 2}, **SMALL))

    def interrupt(seed: int, height: int, width: int) -> scenes.Scene:
        if seed % 1_000_000 == 1:
            raise KeyboardInterrupt
        return draw_scene(seed, height, width)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scenes, "draw_scene", interrupt)
        write_scenes(tmp_path / "part", split_sizes={"train": 2}, **SMALL)
    assert contents(write_scenes(tmp_path / "part", split_sizes={"train": 2}, **SMALL)) == whole


def test_a_set_with_a_file_missing_is_completed(tmp_path):
    whole = contents(write_scenes(tmp_path, split_sizes={"train": 2}, **SMALL))
    next(tmp_path.glob("gtFine/*/*/*.png")).unlink()
    assert contents(write_scenes(tmp_path, split_sizes={"train": 2}, **SMALL)) == whole


def test_other_settings_replace_the_set(tmp_path):
    write_scenes(tmp_path, split_sizes={"train": 2}, **SMALL)
    root = write_scenes(tmp_path, split_sizes={"val": 1}, **SMALL)
    assert {Path(name).parts[1] for name in contents(root)} == {"val"}


def test_data_of_others_are_not_touched(tmp_path):
    picture = tmp_path / "leftImg8bit" / "train" / "aachen" / "aachen_000000_000019_leftImg8bit.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    with pytest.raises(DataError, match=tmp_path.name):
        write_scenes(tmp_path, **SMALL)
    assert picture.exists()


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="validation"):
        write_scenes(tmp_path, split_sizes={"validation": 1}, **SMALL)
