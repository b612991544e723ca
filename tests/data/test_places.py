"""Rooms, streets and landscapes with objects of the 150 classes of ADE20K."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovenet_core.data import ADE20K
from ovenet_core.data.synthetic.camera import Scene
from ovenet_core.data.synthetic.objects import INDOORS, KINDS, OBJECTS, SHAPES, Place, draw_place
from ovenet_core.utils import ConfigError

NAME = {row.label: name for name, row in OBJECTS.items()}


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [draw_place(seed, 96, 144) for seed in range(100)]


def test_there_is_an_object_for_every_class():
    assert tuple(NAME[label] for label in range(1, 151)) == ADE20K.class_names


def test_every_class_occurs_in_a_hundred_places(drawn):
    counts = sum(np.bincount(scene.label_ids.ravel(), minlength=256) for scene in drawn)
    assert {NAME[i] for i in range(1, 151) if counts[i] < 40} == set()
    assert counts[151:].sum() == 0


def test_some_pixels_have_no_class(drawn):
    assert 0.0005 < np.mean([(scene.label_ids == 0).mean() for scene in drawn]) < 0.05


def test_kinds_of_places_take_turns(drawn):
    for seed, scene in enumerate(drawn):
        names = {NAME[i] for i in np.unique(scene.label_ids) if i}
        assert ("wall" in names) == (KINDS[seed % 10] in INDOORS)
        assert ("sky" in names) == (KINDS[seed % 10] not in INDOORS)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fills_its_box(shape):
    points = np.concatenate([polygon for polygon, _ in SHAPES[shape]])
    assert (np.abs(points[:, 0]) <= 0.51).all() and (points[:, 1] > -0.02).all() and (points[:, 1] < 1.26).all()
    assert np.ptp(points[:, 0]) > 0.6 and np.ptp(points[:, 1]) > 0.6


def test_no_shape_is_missing_or_left_over():
    assert {row.shape for row in OBJECTS.values() if row.place not in ("fixed", "base", "patch")} == set(SHAPES)
    assert {row.shape for row in OBJECTS.values() if row.place in ("fixed", "base", "patch")} == {"-"}


def test_no_two_classes_look_alike():
    looks = [(row.shape, *row.colour, *row.accent) for row in OBJECTS.values()]
    assert len(set(looks)) == len(OBJECTS)


def test_same_seed_draws_the_same(drawn):
    again = draw_place(12, 96, 144)
    np.testing.assert_array_equal(again.image, drawn[12].image)
    np.testing.assert_array_equal(again.label_ids, drawn[12].label_ids)


def test_objects_are_instances_and_ground_walls_and_sky_are_not(drawn):
    whole = [row.label for row in OBJECTS.values() if row.place in ("fixed", "base", "patch")]
    for scene in drawn:
        number = scene.instance_ids // 256
        np.testing.assert_array_equal(scene.instance_ids % 256, scene.label_ids)
        assert not number[np.isin(scene.label_ids, [*whole, 0])].any()
        assert len(np.unique(number)) > 4
    one_class = [len(np.unique(s.instance_ids[s.label_ids == i])) for s in drawn for i in np.unique(s.label_ids)]
    assert max(one_class) > 1  # two objects of a class are told apart


def test_another_size_shows_the_same_place(drawn):
    for seed in (2, 7):
        small = cv2.resize(draw_place(seed, 192, 288).label_ids, (144, 96), interpolation=cv2.INTER_NEAREST_EXACT)
        assert (small == drawn[seed].label_ids).mean() > 0.95


@settings(max_examples=20, deadline=None)
@given(height=st.integers(16, 90), width=st.integers(16, 120), seed=st.integers(0, 2**31))
def test_any_size_can_be_drawn(height, width, seed):
    scene = draw_place(seed, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.label_ids.max() <= 150


@pytest.mark.parametrize(
    ("arguments", "where", "found"), [((-1, 64, 64), "seed", "-1"), ((0, 15, 64), "size", "15x64")]
)
def test_impossible_seed_or_size_is_refused(arguments, where, found):
    with pytest.raises(ConfigError) as caught:
        draw_place(*arguments)
    assert (caught.value.where, caught.value.found) == (where, found)


def test_image_has_edges_where_the_label_has_borders(drawn):
    for scene in drawn[:30]:
        grey = cv2.GaussianBlur(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(float)
        step, border = np.abs(np.diff(grey, axis=1)), np.diff(scene.label_ids.astype(int), axis=1) != 0
        assert step[border].mean() > 2 * step[~border].mean()


def test_what_is_nearer_is_painted_later():
    distances = [z for z, _ in Place(6, 1.2, 0.8).objects]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("kind", INDOORS.replace("W", ""))
def test_objects_on_tables_stand_at_the_height_of_a_table(kind):
    tops = {row.label for row in OBJECTS.values() if row.place == "top"}
    room = Place(KINDS.index(kind), 1.2, 0.8)
    faces = [faces for _, faces in room.objects if faces[0].ident % 256 in tops]
    feet = [min(face.points[..., 1].min() for face in of_one) for of_one in faces]
    assert feet and all(0.3 < foot < 1.2 for foot in feet)


def test_classes_can_be_told_apart_by_their_colours(drawn):
    """A nearest-mean classifier of single pixels, fitted to half of the images, is far above chance in the others."""
    pixels = [np.stack([s.image.reshape(-1, 3) for s in drawn[half::2]]).reshape(-1, 3) for half in (0, 1)]
    labels = [np.stack([s.label_ids.ravel() for s in drawn[half::2]]).ravel() for half in (0, 1)]
    known = np.unique(labels[0])
    means = np.stack([pixels[0][labels[0] == label].mean(axis=0) for label in known])
    some = np.random.default_rng(0).integers(len(labels[1]), size=20_000)
    nearest = np.square(pixels[1][some, None].astype(float) - means).sum(axis=2).argmin(axis=1)
    right = known[nearest] == labels[1][some]
    assert np.mean([right[labels[1][some] == i].mean() for i in np.unique(labels[1][some])]) > 0.06  # chance: 0.007
