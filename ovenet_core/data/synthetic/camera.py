"""Images of generated scenes: projects coloured polygons from metres to pixels, and paints them with their ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8, UInt16

from ovenet_core.data.synthetic.parts import EYE, Colour, Face, circle
from ovenet_core.utils import ConfigError


class Mood(NamedTuple):
    """Weather and light; colours are RGB in [0, 255]."""

    zenith: Colour
    horizon: Colour
    clouds: float
    sunlight: float
    tint: Colour  # factors


MOODS = {  # by condition: "" is fair weather, "lamplight" is for rooms
    "": (
        Mood((84, 138, 206), (198, 220, 238), 0.1, 0.50, (1.00, 1.00, 1.00)),
        Mood((150, 164, 180), (216, 221, 225), 0.5, 0.16, (0.98, 1.00, 1.02)),
        Mood((104, 136, 190), (250, 216, 176), 0.1, 0.55, (1.07, 1.00, 0.89)),
        Mood((120, 168, 214), (226, 232, 230), 0.2, 0.34, (1.02, 1.01, 0.97)),
    ),
    # As many as in fair weather, so that the random numbers, and with them the view, stay the same.
    "fog": (Mood((186, 190, 192), (204, 207, 208), 0.0, 0.0, (0.96, 0.98, 1.0)),) * 4,
    "night": (Mood((84, 84, 108), (110, 100, 104), -0.6, 0.0, (1.0, 0.98, 0.96)),) * 4,
    "rain": (Mood((112, 118, 126), (166, 170, 174), 0.0, 0.0, (0.78, 0.81, 0.85)),) * 4,
    "snow": (Mood((196, 201, 206), (218, 221, 224), 0.1, 0.0, (0.94, 0.97, 1.0)),) * 4,
    "lamplight": [Mood((0, 0, 0), (0, 0, 0), 0, 0, t) for t in ((1, 1, 1), (1.07, 0.99, 0.86), (0.92, 0.97, 1.03))],
}


@dataclass(frozen=True)
class Scene:
    """An image (RGB) with label ids and instance ids.

    Instance ids are the label id where there are no instances; else in streets, as in Cityscapes, label id * 1000 +
    number of the object within its class, and in places, as in ADE20K's maps, label id + 256 * number of the object.
    """

    image: UInt8[np.ndarray, "height width 3"]
    label_ids: UInt8[np.ndarray, "height width"]
    instance_ids: UInt16[np.ndarray, "height width"]


class Camera:
    """Paints faces: colours with smooth edges, ids with hard ones.

    Attributes:
        mood: weather and light, one of `MOODS[condition]`.
        focal, centre: focal length and point of the horizon straight ahead, in pixels.
        image, ids: RGB (height, width, 3); instance ids, or label ids where there are no instances (height, width).
        roughness: (256,), strength of the texture of each label id, in grey levels.
    """

    def __init__(self, condition: str, seed: int, height: int, width: int, background: int, roughness: np.ndarray):
        if min(height, width) < 16:
            raise ConfigError("size", f"{height}x{width}", "16 pixels or more to a side", "make it larger")
        if seed < 0:
            raise ConfigError("seed", seed, "0 or more", "give another seed")
        self.condition, self.roughness, self.rng = condition, roughness, np.random.default_rng([seed, 1])
        self.mood = MOODS[condition][self.rng.integers(len(MOODS[condition]))]
        self.focal = float(0.62 * np.sqrt(2.0 * height * width))
        self.centre = np.array((width, height)) * self.rng.uniform((0.45, 0.42), (0.55, 0.48))
        self.image = np.zeros((height, width, 3), np.uint8)
        self.ids = np.full((height, width), background, np.uint16)

    def project(self, faces: Sequence[Face], slant: np.ndarray | None = None) -> list[list[np.ndarray]]:
        """The polygons of each face as OpenCV takes them, in 1/16 pixel; `slant` first maps the points.

        In OpenCV's coordinates the centres of the pixels are whole. A face that is out of sight has no polygons.
        """
        if not faces:
            return []
        points = np.concatenate([face.points.reshape(-1, 3) for face in faces])
        points = points if slant is None else points @ slant
        depth = np.maximum(points[:, 2:], 0.7)
        flat = np.stack((points[:, 0], EYE - points[:, 1]), axis=1) / depth * self.focal + self.centre - 0.5
        corners = np.round(flat * 16).astype(np.int32)
        ends = np.cumsum([face.points.size // 3 for face in faces])
        low, high = (extreme.reduceat(corners, np.append(0, ends[:-1])) for extreme in (np.minimum, np.maximum))
        margin = 3 * 16  # smooth edges reach beyond the corners
        seen = ((high > -margin) & (low < np.array(self.ids.shape[::-1]) * 16 + margin)).all(1).tolist()
        of_faces = zip(faces, np.split(corners, ends[:-1]), seen, strict=True)
        return [[*part.reshape(-1, face.points.shape[-2], 2)] if s else [] for face, part, s in of_faces]

    def paint(self, faces: Sequence[Face], haze: bool = True):
        depth = np.array([face.points.flat[2] for face in faces])[:, None]
        clear = 0.5 ** (np.maximum(depth, 1) / 130) if haze else np.ones_like(depth)
        colours = np.array([(0, 0, 0) if face.colour is None else face.colour for face in faces])
        colours = (colours * self.mood.tint).clip(0, 255) * clear + np.array(self.mood.horizon) * (1 - clear)
        for face, corners, colour in zip(faces, self.project(faces), colours.tolist(), strict=True):
            if corners and face.colour is not None:
                cv2.fillPoly(self.image, corners, colour, cv2.LINE_AA, 4)
            if corners and face.ident is not None:
                cv2.fillPoly(self.ids, corners, face.ident, cv2.LINE_8, 4)

    def noise(self, across: int, flatten: int = 1) -> np.ndarray:
        """Smooth noise in [-1, 1], (height, width): `across` cells in a row, each flattened by a factor."""
        height, width = self.ids.shape
        rows = max(2, min(height, round(flatten * across * height / width)))
        grid = self.rng.integers(0, 256, (rows, min(across, width)), dtype=np.uint8)
        # On bytes, this interpolation gives the same result on every processor.
        smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
        return smooth.astype(np.float32) / 127.5 - 1

    def shoot(self, ground: Sequence[Face], upright: Sequence[Face], to_sun: np.ndarray):
        """Paint a scene: the sky (if there is one), what lies flat, and what stands, from far to near."""
        if outdoors := self.condition != "lamplight":
            self.paint_sky()
        self.paint(ground, haze=False)
        if outdoors:
            self.shade_ground(upright, to_sun)
        self.paint(upright, haze=outdoors)

    def paint_sky(self):
        rows = np.arange(len(self.ids), dtype=np.float32)[:, None, None]
        low = (rows / max(1.0, float(self.centre[1]))).clip(0, 1)
        sky = np.float32(self.mood.zenith) * (1 - low) + np.float32(self.mood.horizon) * low
        cloud = self.noise(5, 3) + 0.6 * self.noise(12, 3) + 0.35 * self.noise(30, 2) + self.mood.clouds
        cloud = (cloud[..., None] * 0.8).clip(0, 0.85)
        self.image[:] = sky * (1 - cloud) + np.float32(246) * cloud

    def shade_ground(self, upright: Sequence[Face], to_sun: np.ndarray):
        """Texture, shadows and haze on what lies flat, before anything stands on it; `to_sun` points to the sun."""
        top, (height, width) = int(self.centre[1]) + 1, self.ids.shape
        rows, columns = np.arange(top, height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
        z = self.focal * EYE / (rows + 1 - float(self.centre[1]))
        x = (columns - float(self.centre[0])) * z / self.focal
        tile = self.rng.integers(-12, 13, (256, 256)).astype(np.float32)
        grain = tile[(z * 45).astype(int) & 255, (x * 45).astype(int) & 255] / (1 + z / 3)
        # Moves points along the sun's rays to the ground.
        slant = np.array(((1, 0, 0), -to_sun / to_sun[1], (0, 0, 1))) * (1, 0, 1)
        shadow = np.zeros((height, width), np.uint8)
        casting = [face for face in upright if face.casts and face.points.flat[2] < 70]
        for corners in self.project(casting, slant):
            cv2.fillPoly(shadow, corners, int(190 * self.mood.sunlight), cv2.LINE_AA, 4)
        lit = 1 - shadow[top:, :, None].astype(np.float32) / 255
        haze = np.minimum(z / 260, 0.6)[..., None]
        ground = (self.image[top:] + grain[..., None]) * lit
        self.image[top:] = (ground * (1 - haze) + np.float32(self.mood.horizon) * haze).clip(0, 255)

    def paint_bonnet(self, colour: np.ndarray, ident: int):
        """The front of the car that carries the camera."""
        height, width = self.ids.shape
        for lift, tone in ((0.0, 0.8), (0.02, 1.0), (0.045, 1.12)):
            oval = (circle(60) * (0.62, 0.13) + (0.5, 1.06 + lift)) * (width, height)
            corners = [np.round(oval * 16).astype(np.int32)]
            cv2.fillPoly(self.image, corners, (colour * tone).tolist(), cv2.LINE_AA, 4)
            cv2.fillPoly(self.ids, corners, ident, cv2.LINE_8, 4)

    def develop(self, label_ids: UInt8[np.ndarray, "height width"]) -> Scene:
        """Texture by class, uneven light, and the noise of a sensor."""
        texture = 0.5 * self.noise(96) + 0.6 * self.noise(256) + 0.6 * self.noise(1024)
        sensor = self.rng.integers(-4, 5, self.image.shape, dtype=np.int8)
        texture, light = (texture * self.roughness[label_ids])[..., None], (1 + 0.05 * self.noise(4))[..., None]
        image = self.image * light + texture + sensor
        return Scene(image.clip(0, 255).astype(np.uint8), label_ids, self.ids)
