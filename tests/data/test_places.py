"""Rooms, streets and landscapes with things of the 150 classes of ADE20K."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovenet_core.data.dataset import ADE20K
from ovenet_core.data.synthetic import places
from ovenet_core.data.synthetic.camera import Scene
from ovenet_core.data.synthetic.places import INDOORS, KINDS, Place, draw_place
from ovenet_core.data.synthetic.shapes import SHAPES, SOLID
from ovenet_core.data.synthetic.things import THINGS


@pytest.fixture(scope="module")
def drawn() -> list[Scene]:
    return [draw_place(seed, 96, 144) for seed in range(100)]


def test_there_is_a_thing_for_every_class_in_the_order_of_the_ids():
    assert tuple(thing.name for thing in THINGS) == ADE20K.class_names


def test_every_class_occurs_in_a_hundred_places(drawn):
    counts = sum(np.bincount(scene.label_ids.ravel(), minlength=256) for scene in drawn)
    assert {THINGS[i - 1].name for i in range(1, 151) if counts[i] < 40} == set()
    assert counts[151:].sum() == 0


def test_some_pixels_have_no_class(drawn):
    assert 0.0005 < np.mean([(scene.label_ids == 0).mean() for scene in drawn]) < 0.05


def test_kinds_of_places_take_turns(drawn):
    names = [{THINGS[i - 1].name for i in np.unique(scene.label_ids) if i} for scene in drawn]
    for seed, found in enumerate(names):
        assert ("wall" in found) == (KINDS[seed % 10] in INDOORS)
        assert ("sky" in found) == (KINDS[seed % 10] not in INDOORS)


@pytest.mark.parametrize("thing", [thing for thing in THINGS if thing.shape], ids=lambda thing: thing.name)
def test_every_shape_fills_its_box(thing):
    points = np.concatenate([polygon for polygon, _ in SHAPES[thing.shape]])
    assert (np.abs(points[:, 0]) <= 0.51).all() and (points[:, 1] > -0.02).all() and (points[:, 1] < 1.26).all()
    assert np.ptp(points[:, 0]) > 0.6 and np.ptp(points[:, 1]) > 0.6


def test_no_shape_is_left_over():
    assert {thing.shape for thing in THINGS} - {""} == set(SHAPES)
    assert set(SHAPES) >= SOLID


def test_no_two_classes_look_alike():
    looks = [(thing.shape, thing.colour, thing.accent) for thing in THINGS]
    assert len(set(looks)) == len(THINGS)


def test_same_seed_draws_the_same(drawn):
    again = draw_place(12, 96, 144)
    np.testing.assert_array_equal(again.image, drawn[12].image)
    np.testing.assert_array_equal(again.label_ids, drawn[12].label_ids)


def test_things_are_instances_and_ground_walls_and_sky_are_not(drawn):
    whole = {i for i, thing in enumerate(THINGS, 1) if thing.name in ("sky", "ceiling", "floor", "wall", "road")}
    for scene in drawn:
        number = scene.instance_ids // 256
        np.testing.assert_array_equal(scene.instance_ids % 256, scene.label_ids)
        assert not number[np.isin(scene.label_ids, [*whole, 0])].any()
        assert len(np.unique(number)) > 4
    one_class = [len(np.unique(s.instance_ids[s.label_ids == i])) for s in drawn for i in np.unique(s.label_ids)]
    assert max(one_class) > 1  # two things of a class are told apart


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


@pytest.mark.parametrize("arguments", [(-1, 64, 64), (0, 15, 64)])
def test_impossible_seed_or_size_is_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        draw_place(*arguments)


def test_image_has_edges_where_the_label_has_borders(drawn):
    for scene in drawn[:30]:
        grey = cv2.GaussianBlur(cv2.cvtColor(scene.image, cv2.COLOR_RGB2GRAY), (3, 3), 0).astype(float)
        step, border = np.abs(np.diff(grey, axis=1)), np.diff(scene.label_ids.astype(int), axis=1) != 0
        assert step[border].mean() > 2 * step[~border].mean()


def test_what_is_nearer_is_painted_later():
    distances = [z for z, _ in Place(6, 1.2, 0.8).things]
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("kind", INDOORS.replace("W", ""))
def test_things_on_tables_stand_at_the_height_of_a_table(kind):
    tops = {places._ID[thing.name] for thing in THINGS if thing.place == "top"}
    room = Place(KINDS.index(kind), 1.2, 0.8)
    feet = [
        min(face.points[..., 1].min() for face in faces)
        for _, faces in room.things
        if faces and faces[0].ident % 256 in tops
    ]
    assert feet and all(0.3 < foot < 1.2 for foot in feet)
