"""Generated scenes: the same bytes for the same seed, exact labels, and the layouts of Cityscapes, ACDC and ADE20K."""

import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovenet_core.data import ACDC, ADE20K, CITYSCAPES, DATASETS, open_dataset
from ovenet_core.data.cityscapes import CITYSCAPES_LABELS
from ovenet_core.data.synthetic import camera, parts, writer
from ovenet_core.data.synthetic.camera import Camera
from ovenet_core.data.synthetic.objects import draw_place
from ovenet_core.data.synthetic.parts import Face
from ovenet_core.data.synthetic.writer import draw_scene, write_scenes
from ovenet_core.utils import ConfigError, DataError, WriteError

SMALL = {"size": (32, 64), "progress": False}
FEW = {"cityscapes": 2, "acdc": 1, "ade20k": 2}  # ACDC has four conditions, each with a reference


@pytest.fixture(scope="module")
def drawn() -> list[camera.Scene]:
    return [draw_scene(seed, 128, 256) for seed in range(16)]


def contents(root: Path, below: str = "**/*.*g") -> dict[str, bytes]:
    """The images below a folder, PNG and JPEG."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.glob(below)}


# -- Drawing


def test_same_seed_draws_the_same_in_another_process():
    scene = draw_scene(5, 48, 96)
    here = [zlib.crc32(array.tobytes()) for array in (scene.image, scene.label_ids, scene.instance_ids)]
    code = (
        "import zlib; from ovenet_core.data.synthetic.writer import draw_scene; s = draw_scene(5, 48, 96); "
        "print([zlib.crc32(a.tobytes()) for a in (s.image, s.label_ids, s.instance_ids)])"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    ).stdout
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
        found = np.unique([CITYSCAPES.lookup[scene.label_ids] for scene in drawn[start : start + 4]])
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
    rider, cycles = parts.LABEL_ID["rider"], [parts.LABEL_ID[name] for name in ("bicycle", "motorcycle")]
    for scene in drawn:
        around = cv2.dilate((scene.label_ids == rider).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.isin(scene.label_ids[around], cycles).any()


def test_thin_structures_are_thin(drawn):
    """Most of the poles vanish under an opening by 9x9 pixels; cars do not."""

    def kept(name: str) -> float:
        masks = [(scene.label_ids == parts.LABEL_ID[name]).astype(np.uint8) for scene in drawn]
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
    camera = Camera("", 0, 64, 128, 23, np.zeros(256, np.float32))
    points = np.array([[(x, y, 12.0) for x, y in corners]])
    camera.paint([Face(points, (255.0, 255.0, 255.0), 7)], haze=False)
    colours, ids = (camera.image[..., 2] > 110).astype(np.uint8), (camera.ids == 7).astype(np.uint8)
    pixel = np.ones((3, 3), np.uint8)
    assert not (colours & ~cv2.dilate(ids, pixel) & 1).any()
    assert not (ids & ~cv2.dilate((camera.image[..., 2] > 0).astype(np.uint8), pixel) & 1).any()


@pytest.mark.parametrize(
    ("arguments", "where", "found"),
    [((-1, 64, 64), "seed", "-1"), ((0, 15, 64), "size", "15x64"), ((0, 64, 15), "size", "64x15")],
)
def test_impossible_seed_or_size_is_refused(arguments, where, found):
    with pytest.raises(ConfigError) as caught:
        draw_scene(*arguments)
    assert (caught.value.where, caught.value.found) == (where, found)


def test_streets_in_fair_weather_are_the_bytes_that_stored_results_were_made_from():
    scene = draw_scene(7, 300, 333)
    drawn = [zlib.crc32(array.tobytes()) for array in (scene.image, scene.label_ids, scene.instance_ids)]
    assert drawn == [3850369046, 3579160114, 4066151151]


# -- Writing

SUFFIX = {"cityscapes": "_leftImg8bit.png", "acdc": "_rgb_anon.png", "ade20k": ".jpg"}
FORMATS = pytest.mark.parametrize("name", SUFFIX)


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


@FORMATS
def test_a_set_that_is_there_is_kept(name, tmp_path):
    first = write_scenes(tmp_path, name, split_sizes={"train": 1}, **SMALL)
    times = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    second = write_scenes(tmp_path, name, split_sizes={"train": 1}, **SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in second.rglob("*")}


@FORMATS
def test_an_interrupted_set_is_drawn_anew(name, tmp_path, monkeypatch):
    whole = contents(write_scenes(tmp_path / "whole", name, split_sizes={"train": FEW[name]}, **SMALL))
    write = cv2.imwrite

    def interrupt(path: str, array: np.ndarray) -> bool:
        if Path(path).name.startswith(Path(sorted(whole)[-1]).name.partition("_gt")[0].removesuffix(".png")):
            raise KeyboardInterrupt
        return write(path, array)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer.cv2, "imwrite", interrupt)
        write_scenes(tmp_path / "part", name, split_sizes={"train": FEW[name]}, **SMALL)
    assert 0 < len(contents(tmp_path / "part")) < len(whole)
    assert contents(write_scenes(tmp_path / "part", name, split_sizes={"train": FEW[name]}, **SMALL)) == whole


@FORMATS
def test_a_set_with_a_file_missing_is_completed(name, tmp_path):
    whole = contents(write_scenes(tmp_path, name, split_sizes={"train": FEW[name]}, **SMALL))
    (tmp_path / sorted(whole)[1]).unlink()
    assert contents(write_scenes(tmp_path, name, split_sizes={"train": FEW[name]}, **SMALL)) == whole


@FORMATS
def test_other_settings_replace_the_set(name, tmp_path):
    write_scenes(tmp_path, name, split_sizes={"train": FEW[name]}, **SMALL)
    other = {"split_sizes": {"val": 1}, "size": (40, 64), "progress": False}
    replaced = contents(write_scenes(tmp_path, name, **other))
    assert replaced == contents(write_scenes(tmp_path / "fresh", name, **other))


@FORMATS
def test_a_set_of_any_size_is_opened_as_it_is_and_completed_with_its_own_settings(name, tmp_path):
    whole = contents(write_scenes(tmp_path, name, split_sizes={"train": FEW[name]}, seed=3, **SMALL))
    (tmp_path / next(file for file in whole if file.endswith((".png", ".jpg")))).unlink()
    assert open_dataset(f"synthetic/{name}", tmp_path) == (DATASETS[name], tmp_path)
    assert contents(tmp_path) == whole


@FORMATS
def test_data_of_others_are_not_touched(name, tmp_path):
    image = tmp_path / writer._LAYOUTS[name].folders[1] / "train" / "aachen.png"
    image.parent.mkdir(parents=True)
    image.touch()
    with pytest.raises(DataError) as caught:
        write_scenes(tmp_path, name, **SMALL)
    assert Path(caught.value.where) == tmp_path
    assert image.exists()


def test_a_set_leaves_those_of_other_formats_in_the_folder_alone(tmp_path):
    before = contents(write_scenes(tmp_path, "acdc", split_sizes={"train": 1}, **SMALL))
    write_scenes(tmp_path, "ade20k", split_sizes={"train": 1}, **SMALL)
    assert before.items() <= contents(tmp_path).items()


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        write_scenes(tmp_path, split_sizes={"validation": 1}, **SMALL)
    assert caught.value.where == "split_sizes" and "validation" in caught.value.found


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(ConfigError) as caught:
        write_scenes(tmp_path, "camvid", **SMALL)
    assert (caught.value.where, caught.value.found) == ("benchmark", "'camvid'")


def test_an_image_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(writer.cv2, "imwrite", lambda path, array: False)
    with pytest.raises(WriteError) as caught:
        write_scenes(tmp_path, split_sizes={"val": 1}, **SMALL)
    assert Path(caught.value.where).is_relative_to(tmp_path / "leftImg8bit")


@FORMATS
def test_the_reader_of_the_benchmark_finds_every_image_of_every_split(name, tmp_path):
    data, sizes = DATASETS[name], {"train": FEW[name], "val": 1, "test": 1}
    root, conditions = write_scenes(tmp_path, name, split_sizes=sizes, **SMALL), max(1, len(data.conditions))
    for split, count in sizes.items():
        samples = data.samples(root, split)
        assert len(samples) == count * conditions
        for sample in samples:
            assert sample.image.name == sample.name + SUFFIX[name]
            assert (sample.label is None) == (split == "test")
            if sample.label:
                pixels, label = data.read(sample)
                assert pixels.shape[:2] == label.shape
                assert len(np.unique(label)) > 3
    different = {image for file, image in contents(root).items() if file.endswith(SUFFIX[name])}
    assert len(different) == sum(sizes.values()) * conditions


def test_acdc_has_the_street_of_its_condition(tmp_path):
    root = write_scenes(tmp_path, "acdc", split_sizes={"val": 1}, seed=2, **SMALL)
    for number, sample in enumerate(ACDC.samples(root, "val")):
        scene = draw_scene((2 * 3 + 1) * 1_000_000 + number * 200_000, 32, 64, ACDC.conditions[number])
        assert sample.condition == ACDC.conditions[number] == sample.image.parts[-4]
        image, label = ACDC.read(sample)
        np.testing.assert_array_equal(image, scene.image)
        np.testing.assert_array_equal(label, CITYSCAPES.lookup[scene.label_ids])
        instances = str(sample.label).replace("labelTrainIds", "instanceIds")
        np.testing.assert_array_equal(cv2.imread(instances, cv2.IMREAD_UNCHANGED), scene.instance_ids)


def test_ade20k_has_images_of_various_sizes_and_its_label_values(tmp_path):
    root = write_scenes(tmp_path, "ade20k", split_sizes={"train": 8}, size=(48, 64), progress=False)
    shapes = set()
    for index, sample in enumerate(ADE20K.samples(root, "train")):
        raw = cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(raw, draw_place(index, *raw.shape).label_ids)
        assert 36 <= raw.shape[0] <= 60 and 48 <= raw.shape[1] <= 80
        image = ADE20K.read_image(sample)  # which JPEG keeps nearly as it was drawn
        assert np.abs(image.astype(float) - draw_place(index, *raw.shape).image).mean() < 6
        instances = str(sample.label).replace("annotations", "annotations_instance")
        red, number, _ = np.moveaxis(cv2.imread(instances, cv2.IMREAD_COLOR_RGB), 2, 0)
        np.testing.assert_array_equal(red, raw)
        classes = [set(raw[number == k].tolist()) for k in np.unique(number) if k]
        assert len(classes) > 4 and {len(c) for c in classes} == {1}  # each number is one thing
        shapes.add(raw.shape)
    assert len(shapes) > 4


def test_two_processes_that_want_the_same_set_do_not_disturb_each_other(tmp_path):
    code = (
        "import sys; from ovenet_core.data.synthetic.writer import write_scenes;"
        "write_scenes(sys.argv[1], split_sizes={'train': 6}, size=(32, 64), progress=False)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "both")]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    alone = write_scenes(tmp_path / "alone", split_sizes={"train": 6}, size=(32, 64), progress=False)
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.png"))
    assert len(files) == 18 and all((tmp_path / "both" / f).read_bytes() == (alone / f).read_bytes() for f in files)
