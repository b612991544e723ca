"""Images per second and memory of training on a GPU: what each switch gives, what each benchmark takes, runs at once.

    python tests/benchmarks/bench_gpu.py [PART …] --record results/bench_gpu

Each part is a file of its own in that folder, so that they can be measured one by one. `python -m ovenet_core report`
writes the tables of docs/gpu.md from them. A measurement is whole training steps on a batch that lies on the GPU
already: forward, losses, backward, and SGD. Two of these programs that run at once measure one after the other.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn

from ovenet_core.data import get_dataset
from ovenet_core.layers import normalise
from ovenet_core.losses import OVeNetLoss
from ovenet_core.training import autocast, build_network
from ovenet_core.training.config import Experiment
from ovenet_core.training.presets import SYSTEMS, preset
from ovenet_core.utils.files import write_json
from ovenet_core.utils.provenance import provenance

GPU = torch.device("cuda")
LOCK = FileLock(Path(tempfile.gettempdir()) / "ovenet-bench-gpu.lock")
WARM_UP, SECONDS = 3, 3.0
FASTEST = {"precision": "bfloat16", "channels_last": True}
SWITCHES = [
    {"precision": "float32", "channels_last": False},
    {"precision": "float32", "channels_last": True},
    {"precision": "bfloat16", "channels_last": False},
    FASTEST,
    FASTEST | {"checkpointing": True},
]
BACKBONES = ("ovenet", "ovenet-ocr")
STUDY = "camvid/ovenet"
COMPILED = {"compiled": "cityscapes/ovenet", "compiled-ocr": "cityscapes/ovenet-ocr", "compiled-study": STUDY}
BENCHMARKS = ("cityscapes", "acdc", "ade20k")
AT_ONCE = (1, 8)


class Steps:
    """Training steps of an experiment on one batch of noise."""

    def __init__(self, spec: Experiment):
        torch.manual_seed(0)
        self.spec, classes = spec, get_dataset(spec.benchmark).num_classes
        self.network = build_network(spec, classes).to(GPU).train()
        self.step_network = torch.compile(self.network) if spec.compile else self.network
        self.loss = OVeNetLoss(spec).to(GPU)
        size = (spec.batch_size, *spec.crop)
        self.images = torch.randint(0, 256, (size[0], 3, *size[1:]), dtype=torch.uint8, device=GPU)
        self.labels = torch.randint(0, classes, size, device=GPU)
        self.optimizer = torch.optim.SGD(self.network.parameters(), 1e-4, spec.momentum, weight_decay=spec.weight_decay)

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.spec, GPU):
            prediction = self.step_network(normalise(self.images))
        terms = self.loss(prediction, self.labels)
        dict(terms.items())
        terms.total.backward()
        float(nn.utils.get_total_norm([p.grad for p in self.network.parameters()]))
        self.optimizer.step()


def rate(step: Steps, seconds: float = SECONDS) -> float:
    """Images per second."""
    torch.cuda.synchronize()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < seconds:
        step()
        torch.cuda.synchronize()
        count += 1
    return count * step.spec.batch_size / (time.perf_counter() - start)


def measure(name: str, **changes) -> dict:
    """A row: the experiment, images per second and peak memory; none of the two where memory does not suffice."""
    spec = preset(name, pretrained="", **changes)
    row = {"experiment": name, "batch_size": spec.batch_size, "crop": spec.crop} | changes
    start = time.perf_counter()
    try:
        step = Steps(spec)
        if spec.compile:
            step()  # the compiler's own work does not keep others from measuring, nor from the memory
            row["seconds_to_compile"] = time.perf_counter() - start
            print(f"{name}: compiled in {row['seconds_to_compile']:.0f} s", flush=True)
            step.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        with LOCK:
            for _ in range(WARM_UP):
                step()
            torch.cuda.reset_peak_memory_stats()
            row |= {"images_per_second": rate(step), "peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    except torch.cuda.OutOfMemoryError:
        row |= {"images_per_second": None, "peak_gib": None}
    step = None
    gc.collect()
    torch.cuda.empty_cache()
    print({name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}, flush=True)
    return row


def switches() -> list[dict]:
    return [measure(f"cityscapes/{backbone}", **changes) for backbone in BACKBONES for changes in SWITCHES]


def compiled(name: str) -> list[dict]:
    return [measure(name, **FASTEST, compile=True)]


def benchmarks() -> list[dict]:
    return [measure(f"{protocol}/{system}", **FASTEST) for protocol in BENCHMARKS for system in SYSTEMS]


def together() -> list[dict]:
    """Runs of the study's W18 at once, each a process of its own; images per second of all."""
    rows = []
    for number in AT_ONCE:
        command = [sys.executable, __file__, "one", f"--start={time.time() + 12}"]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
        each = [json.loads(process.communicate()[0].splitlines()[-1]) for process in processes]
        rows.append(
            {
                "experiment": STUDY,
                "batch_size": preset(STUDY).batch_size,
                "at_once": number,
                "images_per_second": sum(each),
            }
        )
        print(rows[-1], flush=True)
    return rows


def one(start: float, seconds: float = 5) -> float:
    """Images per second of one process among several, which all measure from the same moment on."""
    step = Steps(preset(STUDY))
    while time.time() < start:
        step()
    return rate(step, seconds)


if __name__ == "__main__":
    parts = {"together": together, "switches": switches, "benchmarks": benchmarks}
    parts |= {part: partial(compiled, name) for part, name in COMPILED.items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default="all", choices=[*parts, "all", "one"])
    parser.add_argument("--record", type=Path, help="a folder for what was measured")
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)  # of "one", a process of "together"
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("needs a GPU")
    if arguments.parts == ["one"]:
        print(json.dumps(one(arguments.start)))
        sys.exit()
    for part in parts if "all" in arguments.parts else arguments.parts:
        rows = parts[part]()
        if arguments.record:
            arguments.record.mkdir(parents=True, exist_ok=True)
            write_json(arguments.record / f"{part}.json", {"rows": rows} | provenance(GPU))
