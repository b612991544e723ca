"""ADE20K SceneParsing (Zhou et al., CVPR 2017): 150 classes. Label value 0 is "other" and ignored."""

from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data.dataset import SegmentationDataset

# Label values 1 to 150: the first synonym of each class.
_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
light, truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land,
bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer,
plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step,
tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock,
flag
"""
# Ours, as distinct as can be: each next colour is the one of a grid that is farthest from black and from all before.
_COLOURS = bytes.fromhex("""
ffffff18ff18ab18ffea811818c0ff426c6cc0ff42ff81d5ff186c1842ff42ff96962d188181ea6cab1881ffffabab81181896ab4296
ffd59618c057c0c0ea1857181881c0ff2dd5421842ffd518abffab6cc0c0966c426cea425718d52dffeaea2d18ea6c81c057ea18c0ab
1896185757c0ffab576c1881c0c02d57ab816c42ff818196ab1857ffc0ffffff572d81ff1842572dff576c4257d5425781d58181c0ff
c081c0576c2dff57ff18579642d518c05718d518ab9618c0189681c0ffffeaffc0819657ab9618c0d56cd596ffeaababff4296ff572d
4296426cffc096ea1896ff6cd5ff811818d5eaff18c0d5ab5742185796c042d58118eac0c0816c9642d557c04257ff186c429696abd5
57d5ea96c05796ead5182d18eaab18ffd5572dabd5d542c01842c0186c42422dabd56c42d59642ea18ffead5d5ff8157422d6c428196
966cc0c018188181186c1818576cea57abff81571896576c2d18ffab42429657ff96c018c06c96c0abc06c18ffab81ff18c01818ea81
42d5c0d52d81d5ab6c81184296c0ab81ff96ab18966c6c57ff57c0ff968157ff6cff18abff4257ff96ffc018d5d5184218186c18c081
1896574242424242eaea81abffabd5ffff96
""")

ADE20K = SegmentationDataset(
    name="ade20k",
    class_names=tuple(_NAMES.strip().replace("\n", " ").split(", ")),
    colours=tuple(zip(*[iter(_COLOURS)] * 3, strict=True)),
    train_ids={0: IGNORE_INDEX, **{index + 1: index for index in range(150)}},
    images=("images/{split}/*.jpg",),
    labels=("annotations/{split}/*.png",),
    # The test images are an archive of their own.
    exceptions={"testing": {"images": ("release_test/{split}/*.jpg", "images/{split}/*.jpg")}},
    splits={
        "train": ("training",),
        "val": ("validation",),
        "trainval": ("training", "validation"),
        "test": ("testing",),
    },
    unlabelled=("testing",),
    official_counts={"train": {"": 20210}, "val": {"": 2000}, "test": {"": 3352}},
    test_size=(520, 520),  # of the authors' protocol
    name_prefixes={"train": ("ADE_train",), "val": ("ADE_val",), "test": ("ADE_test",)},
    duplicates=0.01,
    frequent_class=0,  # wall
    # The server (development kit of the MIT Scene Parsing Benchmark, "Submission format") takes the default, 1 to 150.
    paper_figures=(5, 8, 11),
)
