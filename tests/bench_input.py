"""Pictures per second and core of the input pipeline, with and without the decoded cache; exit status 1 if missed.

    python tests/bench_input.py

A full-size pair (PNG, 1024x2048) is decoded, scaled, cropped to 512x1024 and flipped; or read from the cache, which the
system holds in memory by then, and treated alike. Seconds are those of the processor in one thread.
"""

import sys
import tempfile
import time
from collections.abc import Callable

import cv2

from ovenet_core.augment import generator, random_crop
from ovenet_core.benchmarks import CITYSCAPES
from ovenet_core.cache import DecodedCache
from ovenet_core.scenes import write_scenes

SIZE, CROP = (1024, 2048), (512, 1024)
PICTURES, EPOCHS = 4, 4
BOUND = 6  # times as many pictures per second


def seconds_per_picture(read: Callable, samples: list, scale: tuple[float, float]) -> float:
    start = time.thread_time()
    for epoch in range(EPOCHS):
        for index, sample in enumerate(samples):
            random_crop(*read(sample), crop=CROP, scale=scale, rng=generator(0, epoch, index))
    return (time.thread_time() - start) / (EPOCHS * len(samples))


def input_pipeline() -> bool:
    """Prints pictures per second and core, and whether the cache gives `BOUND` times as many."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = write_scenes(f"{folder}/scenes", split_sizes={"train": PICTURES}, size=SIZE, progress=False)
        samples = CITYSCAPES.samples(root, "train")
        cache = DecodedCache.build(CITYSCAPES, samples, f"{folder}/cache", progress=False)
        for scale in ((0.5, 2.0), (1.0, 1.0)):
            seconds_per_picture(cache.read, samples, scale)  # warms up
            plain, cached = (seconds_per_picture(read, samples, scale) for read in (CITYSCAPES.read, cache.read))
            what = f"input pipeline, scale {scale[0]:g} to {scale[1]:g}, pictures/s with cache / without"
            note = f"{1 / cached:.0f} / {1 / plain:.1f}, {1000 * cached:.1f} ms / {1000 * plain:.0f} ms"
            if scale == (0.5, 2.0):
                reached = plain / cached >= BOUND
            print(f"{what:68s} {plain / cached:5.1f} x >= {BOUND} {note}", flush=True)
    return reached


if __name__ == "__main__":
    sys.exit(0 if input_pipeline() else "missed: the decoded cache")
