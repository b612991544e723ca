"""Generated streets in the conditions of ACDC: fog, night, rain and snow, by how far things are and what shines."""

from collections.abc import Sequence

import cv2
import numpy as np

from ovenet_core.data.synthetic.camera import Camera, Scene
from ovenet_core.data.synthetic.parts import EYE, LABEL_ID, Face, Light

_SIGHT = {"fog": (18.0, 40.0), "rain": (110.0, 200.0), "snow": (70.0, 140.0)}  # metres; 1 / e of a colour is left there
_SNOW, _SKY_DISTANCE = np.float32((236, 240, 246)), 2000.0
_FLAT = np.array([LABEL_ID[name] for name in ("road", "sidewalk", "terrain", "rail track")])
_SNOW_DEPTH = np.zeros(256, np.float32)
_SNOW_DEPTH[_FLAT] = 0.45, 1.0, 1.5, 0.6  # 1 covers all but a few spots


class WeatherCamera(Camera):
    """Paints a street under a condition, and notes how far each pixel is, and which light comes from it."""

    def __init__(self, condition: str, seed: int, height: int, width: int, background: int, roughness: np.ndarray):
        super().__init__(condition, seed, height, width, background, roughness)
        below = np.arange(height, dtype=np.float32)[:, None] + 0.5 - np.float32(self.centre[1])
        ground = np.where(below > 0, np.float32(self.focal * EYE) / np.maximum(below, 0.01), _SKY_DISTANCE)
        self.depth = np.minimum(ground, _SKY_DISTANCE).astype(np.float32) * np.ones((1, width), np.float32)
        self.light = np.zeros_like(self.image)  # of lamps
        self.pools = np.zeros((height, width), np.uint8)  # where street lamps light the ground

    def paint(self, faces: Sequence[Face], haze: bool = True):
        if self.condition == "snow":
            faces = [self.snow_on(face) for face in faces]
        super().paint(faces, haze)
        if not haze:  # what lies flat on the ground does not shine, and is as far as the ground
            return
        for face, corners in zip(faces, self.project(faces), strict=True):
            if face.ident is not None and corners:
                self.note_depth(face, corners)
            if self.condition == "night" and face.colour is not None:
                shines = isinstance(face.colour, Light)
                colour = np.array(face.colour, float).tolist() if shines else (0, 0, 0)
                cv2.fillPoly(self.light, corners, colour, cv2.LINE_AA, 4)
                if shines and face.ident == LABEL_ID["pole"]:
                    self.light_ground(face)

    def note_depth(self, face: Face, corners: list[np.ndarray]):
        """Writes the depth of a face; on one that runs far away from the camera, 1 / depth is linear in the image."""
        near, far = float(face.points[..., 2].min()), float(face.points[..., 2].max())
        if far - near < 5:
            cv2.fillPoly(self.depth, corners, max((near + far) / 2, 0.7), cv2.LINE_8, 4)
            return
        low = np.min([corner.min(0) for corner in corners], 0)[::-1] >> 4
        high = (np.max([corner.max(0) for corner in corners], 0)[::-1] >> 4) + 2
        rows, columns = (slice(max(start, 0), max(stop, 0)) for start, stop in zip(low, high, strict=True))
        depth = self.depth[rows, columns]
        a, b, c = face.points.reshape(-1, 3)[:3] - (0, EYE, 0)
        normal = np.cross(b - a, c - a)
        if not depth.size or abs(normal @ a) < 1e-6:
            return
        mask = np.zeros(depth.shape, np.uint8)
        cv2.fillPoly(mask, corners, 1, cv2.LINE_8, 4, (-16 * columns.start, -16 * rows.start))  # in 1/16 pixel as well
        v = np.arange(rows.start, rows.start + depth.shape[0])[:, None] + 0.5 - self.centre[1]
        u = np.arange(columns.start, columns.start + depth.shape[1]) + 0.5 - self.centre[0]
        inverse = ((u * normal[0] - v * normal[1]) / self.focal + normal[2]) / (normal @ a)
        np.copyto(depth, 1 / inverse.clip(1 / far, 1 / max(near, 0.7)), where=mask > 0, casting="same_kind")

    def snow_on(self, face: Face) -> Face:
        """The face as it looks from above the snow: roofs and tops of cars are white, and so are many leaves."""
        if face.colour is None or face.ident is None:
            return face
        if face.ident == LABEL_ID["vegetation"]:
            cover = self.rng.uniform(0.0, 0.9)
        else:
            a, b, c = face.points.reshape(-1, 3)[:3]
            normal = np.cross(b - a, c - a)
            steep = abs(normal[1]) < 0.7 * np.hypot(*normal[[0, 2]]) / 0.714
            cover = 0.0 if steep or not (face.casts or face.ident == LABEL_ID["building"]) else 0.92
        return face._replace(colour=np.asarray(face.colour) * (1 - cover) + _SNOW * cover)

    def snow_caps(self, image: np.ndarray) -> np.ndarray:
        """Snow on the upper edges of what stands: where it is much farther just above."""
        height, width = self.ids.shape
        thick = (0.13 * self.focal / self.depth).clip(0, height / 25)
        above = (np.arange(height)[:, None] - np.ceil(thick).astype(int)).clip(0)
        behind = self.depth[above, np.arange(width)] > self.depth + 1.5
        upright = self.ids != LABEL_ID["ego vehicle"]
        cap = (behind & upright & ~np.isin(self.ids, _FLAT) & (thick > 0.4))[..., None] * np.float32(0.85)
        return image * (1 - cap) + _SNOW * cap

    def shade_ground(self, upright: Sequence[Face], to_sun: np.ndarray):
        super().shade_ground(upright, to_sun)
        if self.condition == "snow":
            patches = self.noise(24, 2) + 0.7 * self.noise(90, 2)
            cover = (_SNOW_DEPTH[self.ids.clip(0, 255)] + 0.35 * patches).clip(0, 0.93) * np.isin(self.ids, _FLAT)
            self.image[:] = self.image * (1 - cover[..., None]) + _SNOW * cover[..., None]
        if self.condition == "rain":
            self.wet_ground(upright)

    def wet_ground(self, upright: Sequence[Face]):
        """Mirrors what stands in the road; water lies in puddles, and mirrors more at a flat angle."""
        mirror = np.full_like(self.image, self.mood.horizon)
        faces = [face for face in upright if face.colour is not None and face.points.flat[2] < 90]
        for face, corners in zip(faces, self.project(faces, np.diag((1.0, -1.0, 1.0))), strict=True):
            cv2.fillPoly(mirror, corners, np.array(face.colour, float).tolist(), cv2.LINE_AA, 4)
        tall = max(3, len(mirror) // 24) | 1
        mirror = cv2.blur(mirror, (3, tall)).astype(np.float32)
        flat = (self.depth / (self.depth + 14)) * 0.55 + 0.3 * (self.noise(14, 4) + 0.6 * self.noise(50, 4)).clip(0, 1)
        wet = np.isin(self.ids, _FLAT[[0, 1, 3]]) * flat.clip(0, 0.75) + np.isin(self.ids, _FLAT[2]) * 0.06
        self.image[:] = self.image * (1 - wet[..., None]) * 0.86 + mirror * wet[..., None]

    def streaks(self, image: np.ndarray) -> np.ndarray:
        """Falling drops, longer and brighter nearby."""
        (height, width), drops, lean = self.ids.shape, np.zeros_like(self.pools), self.rng.uniform(-0.25, 0.25)
        for x, y, near in self.rng.uniform((0, -0.1, 0), (width, 1, 1), (300, 3)):
            y, length = y * height, height * (0.02 + 0.09 * near**3)
            ends = np.round(np.array(((x, y), (x + lean * length, y + length))) * 16).astype(int)
            cv2.line(drops, *ends.tolist(), int(35 + 60 * near), max(1, round(height / 400)), cv2.LINE_AA, 4)
        share = (drops.astype(np.float32) / 255)[..., None]
        return image * (1 - share) + np.float32((214, 220, 226)) * share

    def flakes(self, image: np.ndarray) -> np.ndarray:
        """Falling snow: many small flakes, few large ones near the camera."""
        (height, width), flakes = self.ids.shape, np.zeros_like(self.pools)
        for x, y, near in self.rng.uniform((0, 0, 0), (width, height, 1), (420, 3)):
            centre, radius = np.round(np.array((x, y)) * 16).astype(int).tolist(), height * (0.0016 + 0.008 * near**6)
            cv2.circle(flakes, centre, max(6, round(radius * 16)), int(200 - 90 * near**3), -1, cv2.LINE_AA, 4)
        share = (cv2.GaussianBlur(flakes, (3, 3), 0).astype(np.float32) / 255)[..., None]
        return image * (1 - share) + np.float32(250) * share

    def light_ground(self, lamp: Face):
        """A round pool of light, 5 metres wide to each side, below a lamp of the street."""
        x, _, z = lamp.points.reshape(-1, 3).mean(axis=0)
        angle = np.linspace(0, 2 * np.pi, 25)[:-1]
        for radius, strength in ((5.0, 60), (3.5, 110), (2.0, 160)):
            ring = np.stack((x + radius * np.cos(angle), np.zeros(24), z + radius * np.sin(angle)), axis=1)
            cv2.fillPoly(self.pools, self.project([Face(ring, None)])[0], strength, cv2.LINE_AA, 4)

    def darken(self, image: np.ndarray) -> np.ndarray:
        """Night: what lamps and the own head lights reach is seen, and around lamps there is a glow."""
        height, width = self.ids.shape
        blurs = [cv2.GaussianBlur(self.light, (0, 0), height / size).astype(np.float32) for size in (128, 40, 12)]
        glow = 0.5 * blurs[0] + 0.7 * blurs[1] + 1.1 * blurs[2]
        columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        across, down = (columns - self.centre[0]) / self.focal, (rows - self.centre[1]) / self.focal
        aside = (1 + (across / 0.45) ** 4) * (1 + ((down + 0.03).clip(-1, 0) / 0.06) ** 2)
        beam = 1 / ((1 + (self.depth / 13) ** 2) * aside)
        pool = cv2.GaussianBlur(self.pools, (0, 0), height / 60).astype(np.float32) / 255
        far = (self.depth > 1000) * np.float32(-0.08)  # the sky
        lit = (0.2 + far + 0.65 * beam + 0.75 * pool)[..., None] * np.float32((1.0, 0.93, 0.84))
        lit = lit + np.float32((0.0, 0.02, 0.06)) + glow / 255 * np.float32(0.8)
        night = image * lit + glow * np.float32(0.22) + self.light * np.float32(0.85)
        return night + self.rng.integers(-5, 6, image.shape, dtype=np.int8)

    def veil(self, image: np.ndarray) -> np.ndarray:
        """Scattered light in front of what is far away."""
        sight = self.rng.uniform(*_SIGHT[self.condition])
        clear = 1 / (1 + self.depth / np.float32(4 * sight))  # to the fourth power it is near exp(-depth / sight)
        clear = (clear * clear) ** 2
        return image * clear[..., None] + np.float32(self.mood.horizon) * (1 - clear[..., None])

    def develop(self, label_ids: np.ndarray) -> Scene:
        own_car = self.ids == LABEL_ID["ego vehicle"]
        self.depth[own_car], self.light[own_car] = 1, 0
        snow, rain = (self.snow_caps, self.veil, self.flakes), (self.veil, self.streaks)
        steps = {"fog": (self.veil,), "night": (self.darken,), "rain": rain, "snow": snow}
        image = super().develop(label_ids).image.astype(np.float32)
        for step in steps[self.condition]:
            image = step(image)
        return Scene(image.clip(0, 255).astype(np.uint8), label_ids, self.ids)
