"""What stands in a generated scene: a street laid out from a seed, as coloured polygons in metres."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count, pairwise

import numpy as np

from ovenet_core.data.synthetic import parts
from ovenet_core.data.synthetic.parts import LABEL_ID, Colour, Face, Light, Line, Number, Part, bars, disc, facade

FAR = 150.0  # length of the street, metres


class Street:
    """The layout of a scene in sunlight of a strength: `ground` is painted first, then `upright`, from far to near."""

    def __init__(self, seed: int, sunlight: float = 0.5):
        self.rng, self.sunlight = np.random.default_rng([seed, 0]), sunlight
        self.to_sun = np.array((self.pick((-1, 1)) * self.rng.uniform(0.5, 0.8), 0.6, self.rng.uniform(-0.6, 0.1)))
        has_bonnet = self.rng.random() < 0.35  # of the car that carries the camera
        self.bonnet = self.pick(parts.PALETTES["paint"]) * 0.7 if has_bonnet else None
        self.asphalt = self.pick(parts.PALETTES["asphalt"])
        self.ground: list[Face] = []
        self.backdrop: list[Face] = []
        self.objects: list[tuple[float, list[Face]]] = []  # distance and faces
        self.counts = {name: count() for name in LABEL_ID}
        # Each of the rarer vehicles comes in every fourth seed, so that a small set has all classes.
        self.special = ("bus", "train", "motorcycle", "truck")[seed % 4]
        self.tracks = 3.4 if self.special == "train" else 0.0  # width taken by the tram at the left kerb
        self.parking = self.rng.random() < 0.5, self.rng.random() < 0.6
        self.kerbs = -5.1 - 2.2 * self.parking[0] - self.tracks, 2.0 + 2.2 * self.parking[1]
        self.walks = self.rng.uniform(2.2, 4.5), self.rng.uniform(2.2, 4.5)
        self.crossing = self.rng.uniform(17, 38)
        self.lay_ground()
        self.close_the_view()
        for side in (-1, 1):
            self.line_with_lots(side)
            self.furnish(side)
        self.fill_lanes()
        self.objects.sort(key=lambda item: -item[0])
        self.upright = [*self.backdrop, *(face for _, faces in self.objects for face in faces)]

    def pick(self, options: Sequence | np.ndarray):
        return options[int(self.rng.integers(len(options)))]

    def colour(self, palette: str) -> np.ndarray:
        """A colour near one of the palette."""
        return self.pick(parts.PALETTES[palette]) + self.rng.uniform(-11, 11, 3)

    def light(self, *normal: Number) -> float:
        """Brightness of a surface: a share from the whole sky and one from the sun."""
        return 0.72 + self.sunlight * max(0.0, float(np.dot(normal, self.to_sun)))

    def instance(self, name: str) -> int:
        return LABEL_ID[name] * 1000 + next(self.counts[name])

    def put(self, build: Callable, x: Number, z: Number, *arguments):
        """Have `build(x, z, ...)` stand in the street."""
        self.objects.append((z, build(x, z, *arguments)))

    def stand(self, x: Number, z: Number, drawing: Iterable[Part], ident: int, turn: Number = 0) -> list[Face]:
        """Parts in a vertical plane through (x, z), turned by `turn` radians away from facing the camera."""
        axes = np.array(((np.cos(turn), 0, np.sin(turn)), (0, 1, 0)))
        return [Face(polygon @ axes + (x, 0, z), colour, ident, True) for polygon, colour in drawing]

    def pave(self, x0: Number, x1: Number, z0: Number, z1: Number, colour: Colour, name: str):
        quad = np.array(((x0, 0, z0), (x0, 0, z1), (x1, 0, z1), (x1, 0, z0)))
        self.ground.append(Face(quad, colour, LABEL_ID[name]))

    def lay_ground(self):
        (left, right), crossing, paving = self.kerbs, self.crossing, self.colour("paving")
        self.pave(-400, 400, 1, 900, self.colour("grass"), "terrain")
        self.pave(left - self.walks[0], right + self.walks[1], 1, FAR, paving, "sidewalk")
        self.pave(-60, 60, crossing - 2.5, crossing + 11.5, paving, "sidewalk")
        self.pave(left - 0.18, right + 0.18, 1, FAR, paving * 1.15, "sidewalk")  # the kerb stones
        self.pave(left, right, 1, FAR + 20, self.asphalt, "road")
        self.pave(-60, 60, crossing, crossing + 9, self.asphalt, "road")
        if self.tracks:
            self.pave(left, left + 3.2, 1, FAR, paving * 0.75, "rail track")
        for z in np.arange(3.0, FAR, 9.0):
            if not crossing - 6 < z < crossing + 9:
                self.pave(-1.72, -1.58, z, z + 4.5, parts.WHITE, "road")
        for x in np.arange(left + self.tracks + 0.3, right - 0.4, 0.9):
            self.pave(x, x + 0.5, crossing - 5, crossing - 2.2, parts.WHITE, "road")

    def close_the_view(self):
        """A skyline of houses and trees across the end of the street."""
        for x in self.rng.permutation(np.arange(-230.0, 231.0, 13.0)):
            z, height = self.rng.uniform((FAR + 20, 7), (FAR + 60, 13))
            house = self.stand(x, z, bars(self.colour("facade"), 18, (0, 0, 0, 1.6 * height)), LABEL_ID["building"])
            self.backdrop += house if self.rng.random() < 0.45 else self.bush(x, z, 0, height, 9, 9)

    def line_with_lots(self, side: int):
        """Houses, fences, walls, hedges and lawns along one side (-1 left, 1 right), some behind a verge."""
        lots = (self.house, self.house, self.house, self.fence, self.wall, self.lawn, self.lawn)
        order = [lots[i] for _ in range(3) for i in self.rng.permutation(len(lots))]
        x = self.kerbs[side > 0] + side * (self.walks[side > 0] + self.pick((0.0, 0.0, self.rng.uniform(1, 3))))
        for start, end in ((self.crossing + 11.5, FAR), (3, self.crossing - 2.5)):  # behind and before the crossing
            borders = np.linspace(end, start, round((end - start) / 12.5) + 1)
            borders[1:-1] += self.rng.uniform(-2, 2, len(borders) - 2)
            for z1, z0 in pairwise(borders.tolist()):
                self.backdrop += order.pop()(side, x, z0, z1)

    def house(self, side: int, x: Number, z0: Number, z1: Number) -> list[Face]:
        ident, back, lit = LABEL_ID["building"], x + side * 11, self.light(-side, 0, 0)
        colour, floors = self.colour("facade"), np.arange(self.pick((1, 2, 3, 4)))
        eaves = 6.95 + 3.15 * floors[-1]
        ridge = (x + back) / 2, eaves + self.rng.uniform(1.5, 4)
        gable = ((x, 0, z0), (x, eaves, z0), (*ridge, z0), (back, eaves, z0), (back, 0, z0))
        roof = ((x, eaves, z0), (x, eaves, z1), (*ridge, z1), (*ridge, z0))
        bays, bay = np.linspace(z0, z1, round((z1 - z0) / 2.8), endpoint=False, retstep=True)
        panes = [(z + 0.28 * bay, sill, z + 0.72 * bay, sill + 1.7) for sill in 4.6 + 3.15 * floors for z in bays]
        shop = [(z + 0.12 * bay, self.pick((0.1, 0.5, 1.3)), z + 0.88 * bay, 2.7) for z in bays]
        bright = [pane for pane in panes if self.rng.random() < 0.25] or panes[:1]  # curtains, or a mirrored sky
        trim = [(z0, 3.5, z1, 3.75), (z0, eaves - 0.3, z1, eaves), *np.add(panes, (-0.14, -0.14, 0.14, 0.14))]
        return [
            Face(np.array(gable), colour * self.light(0, 0, -1), ident, True),
            Face(np.array(roof), self.colour("roof") * self.light(-side * 0.6, 0.8, 0), ident),
            facade(x, [(z0, 0, z1, eaves)], colour * lit, ident, True),
            facade(x, trim, self.colour("trim") * lit),
            facade(x, panes + shop, parts.GLASS * lit),
            facade(x, bright, self.pick((Light((214, 204, 176)), Light((150, 178, 204))))),
        ]

    def bush(self, x: Number, z: Number, low: Number, high: Number, radius: Number, blobs: int) -> list[Face]:
        """A ball of leaves between two heights: dark blobs below, and lighter ones upwards and to the sun."""
        leaf, level = self.colour("leaf"), np.linspace(0, 1, blobs)
        across = self.rng.uniform(-1, 1, blobs) * (0.25 + 0.75 * np.sqrt(1 - (1.6 * level - 0.75) ** 2))
        centre = np.stack((across * radius, low + (high - low) * (0.15 + 0.75 * level)), axis=1)[:, None]
        leaves = centre + self.rng.uniform(0.22, 0.42, (blobs, 1, 1)) * radius * parts.circle(9)
        glow = self.rng.uniform(0.68, 0.83, blobs) + 0.32 * level + 0.5 * self.sunlight * across * self.to_sun[0]
        drawing = [(disc(0, (low + high) / 2, radius * 0.9, (high - low) * 0.46), leaf * 0.72)]
        drawing += zip(leaves, glow[:, None] * leaf, strict=True)
        return self.stand(x, z, drawing, LABEL_ID["vegetation"])

    def tree(self, x: Number, z: Number) -> list[Face]:
        top, radius, lean = self.rng.uniform((5.5, 1.4, -0.2), (8.5, 2.3, 0.2))
        trunk = bars(self.colour("bark"), 0.28, (0, 0, lean, top * 0.6))
        return self.stand(x, z, trunk, LABEL_ID["vegetation"]) + self.bush(x, z, top * 0.36, top, radius, 20)

    def bushes(self, x: Number, z0: Number, z1: Number, height: Number, radius: Number) -> list[Face]:
        spots = np.arange(z1, z0, -1.2 * radius)
        return [f for z in spots for f in self.bush(x, z, 0, height * self.rng.uniform(0.8, 1.2), radius, 8)]

    def lawn(self, side: int, x: Number, z0: Number, z1: Number) -> list[Face]:
        """Bushes at the back, a tree, and perhaps a hedge in front."""
        tree = self.tree(x + side * self.rng.uniform(3, 7), (z0 + z1) / 2)
        hedge = self.bushes(x + side * 0.6, z0, z1, self.rng.uniform(1.0, 2.4), 0.9) if self.rng.random() < 0.5 else []
        return self.bushes(x + side * 13, z0, z1, 3.7, 3.0) + tree + hedge

    def wall(self, side: int, x: Number, z0: Number, z1: Number) -> list[Face]:
        height, colour = self.rng.uniform(1.4, 2.6), self.colour("stone") * self.light(-side, 0, 0)
        courses = [(z0, y, z1, y + 0.05) for y in np.arange(0.35, height - 0.2, 0.35)]
        front = facade(x, [(z0, 0, z1, height)], colour, LABEL_ID["wall"], True)
        top = facade(x, [(z0, height - 0.18, z1, height)], colour * 1.2)
        return [*self.lawn(side, x, z0, z1), front, facade(x, courses, colour * 0.86), top]

    def fence(self, side: int, x: Number, z0: Number, z1: Number) -> list[Face]:
        height, ident = self.rng.uniform(1.1, 1.8), LABEL_ID["fence"]
        wood, steel, white = parts.PALETTES["bark"][0] * 1.6, parts.STEEL * 0.65, parts.WHITE * 0.9
        colour, thick = self.pick(((wood, 0.2), (steel, 0.07), (white, 0.09)))
        slats = [(z, 0, z + thick, height) for z in np.arange(z0, z1 - thick, 0.28)]
        rails = [(z0, y, z1, y + 0.09) for y in (0.25, height - 0.2)]
        gaps = facade(x, [(z0, 0, z1, height)], None, ident)  # as in Cityscapes, they belong to the fence
        front = facade(x, slats, colour * self.light(-side, 0, 0), ident, True)
        return [*self.lawn(side, x, z0, z1), gaps, facade(x, rails, colour * 0.85), front]

    def furnish(self, side: int):
        """A sidewalk: poles, trees and parked bicycles at the kerb, people towards the houses."""
        kerb, width, z = abs(self.kerbs[side > 0]), self.walks[side > 0], self.rng.uniform(5, 8)
        options = (self.lamp, self.lamp, self.sign, self.sign, self.tree, self.tree, self.cycle)
        while z < 80:
            if not self.crossing - 1 < z < self.crossing + 10:
                self.put(self.pick(options), side * (kerb + 0.7), z)
                for _ in range(self.pick((0, 1, 2))):
                    inwards, onwards = self.rng.uniform((1.0, 0.5), (width - 0.4, 3.0))
                    self.put(self.person, side * (kerb + inwards), z + onwards)
            z += self.rng.uniform(3.5, 8)
        self.put(self.signal, side * (kerb + 0.4), self.crossing - 1.5)

    def post(self, x: Number, z: Number, height: Number, drawing: Iterable[Part], name: str) -> list[Face]:
        pole = bars(parts.STEEL, 0.12, (0, 0, 0, height))
        return self.stand(x, z, pole, LABEL_ID["pole"]) + self.stand(x, z, drawing, LABEL_ID[name])

    def lamp(self, x: Number, z: Number) -> list[Face]:
        top, reach = self.rng.uniform(6, 8), -1.3 * np.sign(x)
        arm = bars(parts.STEEL, 0.12, (0, top, reach, top)) + bars(parts.LAMP, 0.22, (reach, top, 1.5 * reach, top))
        return self.post(x, z, top, arm, "pole")

    def sign(self, x: Number, z: Number) -> list[Face]:
        plate = [(np.add(polygon, (0, 2.5)), colour) for polygon, colour in self.pick(parts.PLATES)]
        return self.post(x, z, 2.5, plate, "traffic sign")

    def signal(self, x: Number, z: Number) -> list[Face]:
        stop, go = self.pick(((Light((250, 60, 50)), (28, 62, 44)), ((70, 30, 30), Light((60, 240, 140)))))
        lights = [(disc(0, y, 0.17), colour) for y, colour in ((3.36, stop), (2.95, (80, 66, 30)), (2.54, go))]
        return self.post(x, z, 2.6, bars((30, 34, 34), 0.52, (0, 2.3, 0, 3.6)) + lights, "traffic light")

    def figure(self, legs: Sequence[Line], torso: Line, arms: Sequence[Line], head: Line, hats: str) -> list[Part]:
        """The drawing of a human, whose limbs are lines."""
        (x, y), trousers, coat = head, self.colour("clothes"), self.colour("clothes")
        limbs = bars(trousers, 0.16, *legs) + bars(coat, 0.38, torso) + bars(coat * 0.85, 0.11, *arms)
        skin = self.pick(parts.PALETTES["skin"])
        return [*limbs, (disc(x, y, 0.12, 0.15), skin), (disc(x, y + 0.07, 0.13, 0.1), self.colour(hats))]

    def person(self, x: Number, z: Number) -> list[Face]:
        size, stride = self.rng.uniform((0.86, 0.05), (1.06, 0.3))
        legs = [(s * 0.07, 0.86, s * stride, 0) for s in (-1, 1)]
        arms = [(s * 0.2, 1.37, s * (0.26 + stride / 2), 0.85) for s in (-1, 1)]
        drawing = [(p * size, colour) for p, colour in self.figure(legs, (0, 0.8, 0, 1.42), arms, (0, 1.6), "roof")]
        return self.stand(x, z, drawing, self.instance("person"), self.rng.uniform(-0.5, 0.5))

    def cycle(self, x: Number, z: Number, kind: str = "", ridden: bool = False) -> list[Face]:
        """A bicycle or motorcycle from the side, more or less turned, parked or with its rider."""
        kind, turn, paint = kind or self.pick(tuple(parts.CYCLES)), self.rng.uniform(-1.0, 1.0), self.colour("paint")
        hub, thick, tubes = parts.CYCLES[kind]
        wheels = [(x, *rim) for x in (-0.56, 0.56) for rim in ((0.33, parts.TYRE), (hub, parts.SILVER))]
        drawing = [(disc(x, 0.33, radius), colour) for x, radius, colour in wheels]
        drawing += bars(paint, thick, *tubes) + bars(parts.TYRE, 0.07, *parts.FITTINGS)
        way = np.array((self.pick((-1, 1)), 1))  # to the left or to the right
        faces = self.stand(x, z, [(p * way, colour) for p, colour in drawing], self.instance(kind), turn)
        if ridden:
            legs, arms = [(-0.18, 0.95, 0.16, 0.62), (0.16, 0.66, 0.02, 0.25)], [(0.1, 1.38, 0.42, 1.05)]
            rider = self.figure(legs, (-0.2, 0.88, 0.08, 1.45), arms, (0.15, 1.62), "paint")
            # A rider has more depth than the wheels, and so is less foreshortened.
            faces += self.stand(x, z, [(p * way, colour) for p, colour in rider], self.instance("rider"), 0.8 * turn)
        return faces

    def vehicle(self, x: Number, z: Number, kind: str, yaw: Number, ident: int = 0, paint: Colour | None = None):
        """The visible faces of a vehicle that heads `yaw` radians to the right of straight ahead."""
        (width, profile, _, wheels, _), paint = parts.VEHICLES[kind], self.colour("paint") if paint is None else paint
        ident = ident or self.instance("car" if kind == "van" else kind)
        turn = np.array(((np.sin(yaw), 0, np.cos(yaw)), (0, 1, 0), (np.cos(yaw), 0, -np.sin(yaw))))
        axes = turn * ((1,), (1,), (width / 2,))
        (rear, _), *_, (front, _) = profile
        spot = np.array(((rear, 0, -1), (front, 0, -1), (front, 0, 1), (rear, 0, 1))) * 1.07
        self.ground.append(Face(spot @ axes + (x, 0, z), self.asphalt * 0.5))
        ends = [(wheel, s) for wheel in wheels for s in (-0.98, 0.62)]  # the tyres under the ends of the axles
        tyres = [((x, 0, s), (x, 0.6, s), (x, 0.6, s + 0.36), (x, 0, s + 0.36)) for x, s in ends]
        faces = [Face(np.array(tyres) @ axes + (x, 0, z), parts.TYRE, ident)]
        for outline, normal, details in parts.panels(kind):  # those that face the camera hide none of each other
            points, normal = outline @ axes + (x, 0, z), normal @ turn
            if normal @ ((0, parts.EYE, 0) - points[0]) > 0:
                faces.append(Face(points, paint * self.light(*normal), ident, True))
                faces += [Face(polygon @ axes + (x, 0, z), colour, ident) for polygon, colour in details]
        return faces

    def fill_lanes(self):
        (left, right), crossing = self.kerbs, self.crossing
        first = [self.special if self.special in ("bus", "truck") else "car", "car"][:: self.pick((-1, 1))]
        for kind, x, yaw, z in zip(first, (0.0, -3.3), (0.0, np.pi), self.rng.uniform((11, 8), (20, 17)), strict=True):
            while z < 100:
                half = 6.0 if kind in ("bus", "truck") else 2.5
                if kind != "car" or not crossing - 6 < z + half < crossing + 4:
                    aside, drift = self.rng.uniform((-0.3, -0.03), (0.3, 0.03))
                    self.put(self.vehicle, x + aside, z + half, kind, yaw + drift)
                z += 2 * half + self.rng.uniform(4, 25)
                kind = self.pick(("car", "car", "car", "car", "van", "truck", "bus"))
        if self.tracks:
            train = "train", np.pi, self.instance("train"), self.colour("tram")
            for z in self.rng.uniform(14, 24) + 9.4 * np.arange(3):  # wagons
                self.put(self.vehicle, left + 1.6, z, *train)
        for parked, x, yaw in zip(self.parking, (left + self.tracks + 1.1, right - 1.1), (np.pi, 0.0), strict=True):
            for z in np.arange(self.rng.uniform(6, 12), 80 * parked, 5.8):
                if self.rng.random() < 0.7 and not crossing - 10 < z < crossing + 12:
                    self.put(self.vehicle, x, z, self.pick(("car", "car", "van")), yaw)
        cycle = "motorcycle" if self.special == "motorcycle" else "bicycle"
        self.put(self.cycle, self.rng.uniform(-0.5, 1.7), self.rng.uniform(7, 14), cycle, True)
        self.put(self.cycle, self.rng.uniform(-2.2, -1.2), self.rng.uniform(10, 30), "bicycle", True)
        for _ in range(self.pick((1, 2, 3, 4))):  # people who cross
            x, before = self.rng.uniform((left + self.tracks, 2.4), (right, 4.8))
            self.put(self.person, x, crossing - before)
