"""Speed and memory beside their bounds; exit status 1 if one is missed.

    python tests/bench.py [--quick]      --quick leaves out the memory of the large networks

Run it on a machine that does nothing else: with two threads on two busy cores each waits for the other.
"""

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial

import cv2
import torch
import torch.nn.functional as nnf
from torch import Tensor

from ovenet_core.augment import generator, random_crop
from ovenet_core.benchmarks import CITYSCAPES, IGNORE
from ovenet_core.losses import OVeNetLoss, ohem_cross_entropy
from ovenet_core.ovenet import build
from ovenet_core.scenes import draw_scene, write_scenes

SIZE = (512, 1024)  # of the paper's crops
THREADS = 2
REPETITIONS = 11
MEMORY_BOUNDS = {("hrnet", False): 4.2, ("hrnet_ocr", False): 5.0, ("hrnet", True): 3.0, ("hrnet_ocr", True): 3.0}

missed: list[str] = []


def report(what: str, measured: float, bound: float, unit: str, note: str = "") -> None:
    """Print one row of the table."""
    if measured > bound:
        missed.append(what)
    mark = "MISSED" if measured > bound else "ok"
    print(f"{what:56s} {measured:7.2f} {unit:4s} {'<=':>2s} {bound:5.2f} {mark:7s} {note}".rstrip(), flush=True)


# -- OHEM against plain cross-entropy


def cases() -> dict[str, tuple[Tensor, Tensor]]:
    """Logits and labels; where fewer than `min_kept` pixels are hard, OHEM has to select one by its rank."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 19, (1, *SIZE), generator=rng)
    noise = torch.randn(1, 19, *SIZE, generator=rng)
    peak = 12 * nnf.one_hot(labels).permute(0, 3, 1, 2)  # makes the true class certain
    few = torch.rand(1, 1, *SIZE, generator=rng) < 0.05
    labels[torch.rand(1, *SIZE, generator=rng) < 0.1] = IGNORE
    return {"all hard": (noise, labels), "all easy": (noise + peak, labels),
            "few hard, needs selection": (noise + peak * ~few, labels)}


def seconds(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> float:
    """Of forward and backward."""
    logits = logits.clone().requires_grad_()
    start = time.perf_counter()
    loss(logits, labels, class_weights).backward()
    return time.perf_counter() - start


def ohem() -> None:
    torch.set_num_threads(THREADS)
    plain = partial(nnf.cross_entropy, ignore_index=IGNORE)
    for name, (logits, labels) in cases().items():
        for class_weights in (None, torch.tensor(CITYSCAPES.class_weights)):
            pairs = [[seconds(loss, logits, labels, class_weights) for loss in (plain, ohem_cross_entropy)]
                     for _ in range(REPETITIONS)][1:]  # the first one warms up
            base, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
            what = f"OHEM / cross-entropy, {name}{'' if class_weights is None else ', weights'}"
            report(what, ours / base, 1.15, "x", f"{1000 * ours:.0f} ms / {1000 * base:.0f} ms")


# -- Memory


def one_step(body: str, checkpointing: bool) -> None:
    """Forward, loss and backward of W48 OVeNet; prints the peak memory of this process and a hash of the gradients."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    network = build(body, 48, 19, 4, checkpointing=checkpointing)
    labels = torch.randint(0, 19, (1, *SIZE))
    start = time.perf_counter()
    OVeNetLoss()(network(torch.randn(1, 3, *SIZE)), labels).total.backward()
    duration = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB
    gradients = hashlib.sha256()
    for parameter in network.parameters():
        gradients.update(parameter.grad.numpy())
    print(json.dumps({"peak": peak, "seconds": duration, "gradients": gradients.hexdigest()}))


def memory() -> None:
    gradients: dict[str, str] = {}
    for (body, checkpointing), bound in MEMORY_BOUNDS.items():
        command = [sys.executable, __file__, "--one-step", body, *["--checkpointing"] * checkpointing]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        note = f"{result['seconds']:.0f} s"
        if checkpointing:
            same = gradients[body] == result["gradients"]
            note += ", the same gradients" if same else ", OTHER GRADIENTS"
            missed.extend([] if same else [f"gradients of {body} with checkpointing"])
        gradients[body] = result["gradients"]
        what = f"peak memory, W48 OVeNet on {body}{', checkpointing' * checkpointing}"
        report(what, result["peak"], bound, "GiB", note)


# -- Data


def crops(count: int = 200) -> None:
    cv2.setNumThreads(1)
    scene = draw_scene(0, 1024, 2048)
    label = CITYSCAPES.lookup[scene.label_ids]
    start = time.thread_time()
    for index in range(count):
        random_crop(scene.image, label, crop=SIZE, rng=generator(0, 0, index))
    report("random crop, 1024x2048 to 512x1024, one thread, mean", 1000 * (time.thread_time() - start) / count, 5, "ms")


def scenes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_scenes(folder, progress=False)
        report("64 generated scenes of 128x256, written", time.perf_counter() - start, 10, "s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the memory of the large networks")
    parser.add_argument("--one-step", metavar="BODY", help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_step:
        sys.exit(one_step(arguments.one_step, arguments.checkpointing))
    print(f"{THREADS} threads on {os.cpu_count()} cores; load before: {os.getloadavg()[0]:.1f}")
    for measure in (ohem, crops, scenes) if arguments.quick else (ohem, crops, scenes, memory):
        measure()
    sys.exit(f"missed: {'; '.join(missed)}" if missed else 0)
