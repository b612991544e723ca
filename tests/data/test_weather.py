"""Streets in fog, at night, in rain and in snow: the same labels, and the look that names the condition."""

import numpy as np
import pytest

from ovenet_core.data import ACDC
from ovenet_core.data.synthetic.camera import Scene
from ovenet_core.data.synthetic.parts import LABEL_ID, Face, Light
from ovenet_core.data.synthetic.weather import WeatherCamera
from ovenet_core.data.synthetic.writer import draw_scene

SEEDS = range(4)


@pytest.fixture(scope="module")
def fair() -> list[Scene]:
    return [draw_scene(seed, 96, 192) for seed in SEEDS]


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[Scene]]:
    return {condition: [draw_scene(seed, 96, 192, condition) for seed in SEEDS] for condition in ACDC.conditions}


def mean(scenes: list[Scene], *names: str) -> float:
    """Mean grey level of the classes of that name."""
    ids = [LABEL_ID[name] for name in names]
    return np.concatenate([scene.image[np.isin(scene.label_ids, ids)] for scene in scenes]).mean()


@pytest.mark.parametrize("condition", ACDC.conditions)
def test_the_street_and_its_labels_are_those_of_fair_weather(condition, drawn, fair):
    for scene, other in zip(drawn[condition], fair, strict=True):
        np.testing.assert_array_equal(scene.label_ids, other.label_ids)
        np.testing.assert_array_equal(scene.instance_ids, other.instance_ids)


@pytest.mark.parametrize("condition", ACDC.conditions)
def test_the_same_seed_gives_the_same_bytes(condition, drawn):
    again = draw_scene(3, 96, 192, condition)
    np.testing.assert_array_equal(again.image, drawn[condition][3].image)


def test_night_is_dark_and_its_lamps_are_not(drawn, fair):
    assert mean(drawn["night"], "sky") < 30
    assert mean(drawn["night"], "building", "vegetation") < 0.4 * mean(fair, "building", "vegetation")
    assert all((scene.image.max(axis=2) > 220).any() for scene in drawn["night"])


def test_snow_covers_the_ground(drawn, fair):
    for name in ("sidewalk", "terrain"):
        assert mean(drawn["snow"], name) > max(185, mean(fair, name) + 15)


def test_rain_has_a_grey_sky_and_a_dark_road(drawn, fair):
    sky = np.concatenate([scene.image[scene.label_ids == LABEL_ID["sky"]] for scene in drawn["rain"]]).astype(int)
    assert 110 < sky.mean() < 185
    assert np.ptp(sky.mean(axis=0)) < 25
    assert mean(drawn["rain"], "road") < mean(fair, "road")


def camera(condition: str) -> WeatherCamera:
    return WeatherCamera(condition, 0, 64, 128, LABEL_ID["sky"], np.zeros(256, np.float32))


def board(z0: float, z1: float, colour) -> Face:
    points = np.array(((-1.0, 0, z0), (-1, 3, z0), (1, 3, z1), (1, 0, z1)))
    return Face(points, colour, LABEL_ID["building"], True)


def test_fog_hides_more_of_what_is_farther():
    contrasts = []
    for distance in (5, 15, 45, 135):
        view = camera("fog")
        view.paint([board(distance, distance, (20, 20, 20))])
        scene = view.develop(view.ids.astype(np.uint8))
        contrasts.append(np.mean(view.mood.horizon) - scene.image[scene.label_ids == LABEL_ID["building"]].mean())
    assert contrasts == sorted(contrasts, reverse=True)
    assert contrasts[0] > 110
    assert contrasts[3] < 12


def test_depth_on_a_face_that_runs_away_is_that_of_its_plane():
    view = camera("fog")
    view.paint([board(6, 20, (20, 20, 20))])
    rows, columns = np.nonzero(view.ids == LABEL_ID["building"])
    slope = (columns + 0.5 - view.centre[0]) / view.focal  # x / z of the ray, which meets x = (z - 13) / 7
    expected = (13 / 7) / (1 / 7 - slope)
    np.testing.assert_allclose(view.depth[rows, columns], expected.clip(6, 20), rtol=0.02)


def test_light_of_a_lamp_is_hidden_by_what_stands_before_it():
    view = camera("night")
    view.paint([board(20, 20, Light((255, 255, 255)))])
    assert view.light.any()
    view.paint([board(10, 10, (90, 90, 90))])
    assert not view.light.any()


def test_the_wet_road_mirrors_what_stands_on_it():
    def road(colour: tuple[float, float, float]) -> np.ndarray:
        view = camera("rain")
        view.ids[view.depth < 1000] = LABEL_ID["road"]
        view.shade_ground([board(12, 12, colour)], np.array((0.0, 1.0, 0.0)))
        return view.image.astype(int)

    difference = road((250, 0, 0)) - road((0, 0, 0))
    assert difference[..., 0].max() > 40
    assert not difference[..., 1:].any()
