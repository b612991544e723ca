"""Speed of the scores beside their bounds; exit status 1 if one is missed.

    python tests/bench_scores.py

Run it on a machine that does nothing else.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from ovenet_core.benchmarks import CITYSCAPES
from ovenet_core.boundaries import LabelBoundaries
from ovenet_core.metrics import ConfusionMatrix
from ovenet_core.scenes import draw_scene

SIZE = (1024, 2048)
THREADS = 2
REPETITIONS = 9

missed: list[str] = []


def report(what: str, measured: float, bound: float, unit: str, note: str = "") -> None:
    """Print one row of the table."""
    if measured > bound:
        missed.append(what)
    mark = "MISSED" if measured > bound else "ok"
    print(f"{what:56s} {measured:7.2f} {unit:4s} {'<=':>2s} {bound:5.2f} {mark:7s} {note}".rstrip(), flush=True)


def seconds(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def confusion() -> None:
    """A score map with its label, against a plain argmax over the same map."""
    torch.set_num_threads(THREADS)
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(1, 19, *SIZE, generator=rng)
    label = torch.randint(0, 19, (1, *SIZE), generator=rng).to(torch.uint8)
    matrix = ConfusionMatrix(19)
    both = (lambda: scores.argmax(1), lambda: matrix.update_from_scores(scores, label))
    pairs = [[seconds(function) for function in both] for _ in range(REPETITIONS)][1:]  # the first one warms up
    plain, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    report("confusion matrix from scores / argmax, 1x19x1024x2048", ours / plain, 1.5, "x",
           f"{1000 * ours:.0f} ms / {1000 * plain:.0f} ms")


def boundaries() -> None:
    """All boundary scores of one picture of Cityscapes' size for S_i, S_s and S_f."""
    label = CITYSCAPES.lookup[draw_scene(0, *SIZE).label_ids]
    prediction = label.copy()
    prediction[label == 255] = 0
    prediction[:, 3:] = prediction[:, :-3]

    def count() -> None:
        edges = LabelBoundaries(label, 19)
        for _ in range(3):
            edges.count(prediction)

    report("boundary scores, 1024x2048, three outputs", min(seconds(count) for _ in range(3)), 3, "s")


if __name__ == "__main__":
    confusion()
    boundaries()
    sys.exit(f"missed: {'; '.join(missed)}" if missed else 0)
