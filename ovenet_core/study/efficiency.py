"""What OVeNet costs beside HRNet, and beside an HRNet with as many parameters; what training costs on a GPU."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovenet_core.data import get_dataset
from ovenet_core.study.comparison import Study
from ovenet_core.study.tables import variant_label
from ovenet_core.training import Experiment, build_network, preset

COMPARED = ("hrnet", "ovenet", "hrnet-wide")
STEP = "training step, of HRNet's"
RATE, MEMORY = "images/s", "memory, GiB"
GPU_TITLES = {
    "gpu_switches": "What each switch gives: W48 at 512x1024, batches of 12, beside float32 in the plain layout",
    "gpu_recipe": "One GPU: the paper's benchmarks with bfloat16 and channels-last; training steps alone",
    "gpu_together": "Runs of the study at once on one GPU: OVeNet, W18 at 360x480, images/s of all",
}


def costs(study: Study, steps: Mapping[tuple[int, int, str], float] = MappingProxyType({})) -> pd.DataFrame:
    """What each system costs: parameters, GFLOP, training time and memory, and each as a share of HRNet's.

    GFLOP are those of one forward pass of an image as large as the crop. Hours are those of the clock, whatever else
    the machine had to do, so that they are not compared: the time of one step on one core of a quiet machine is, where
    `tests/benchmarks/bench.py` measured it. Memory is of the runs that noted it.

    Args:
        steps: as from `step_times`.
    """
    rows = {}
    for name in COMPARED:
        runs = list(study.runs(name).values())
        spec = preset(f"{study.scale}/{name}")
        hours = [run.result["duration_seconds"] / 3600 for run in runs]
        memory = [m for run in runs if (m := run.result.get("peak_memory_gib"))]
        rows[variant_label(name)] = {
            "parameters, million": sizes(spec, study.data.num_classes)[0] / 1e6,
            "GFLOP": sizes(spec, study.data.num_classes)[1] / 1e9,
            STEP: 1.0 if name == "hrnet" else steps.get((*spec.crop, name), np.nan),
            "hours by the clock": np.mean(hours) if hours else np.nan,
            "memory, GiB": np.mean(memory) if memory else np.nan,
            "seeds": len(runs),
            "of them with memory": len(memory),
            "runs": " ".join(str(run.folder) for run in runs),
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    compared = found[["parameters, million", "GFLOP", "memory, GiB"]]
    shares = compared / compared.iloc[0]
    found = found.join(shares.rename(columns=lambda name: f"{name.split(',')[0]}, of HRNet's"))
    return found[[*(name for name in found if name != "runs"), "runs"]]


def step_times(folder: str | Path) -> dict[tuple[int, int, str], float]:
    """Of HRNet's, by height and width of the crop and system: what `make bench` measured, if its file is there."""
    path, found = Path(folder) / "bench.json", {}
    for row in json.loads(path.read_text())["measurements"] if path.exists() else ():
        if match := re.fullmatch(r"training step, W18 at (\d+)x(\d+), (\S+) / hrnet, one thread", row["what"]):
            found[int(match[1]), int(match[2]), match[3]] = row["measured"]
    return found


@lru_cache
def sizes(experiment: Experiment, num_classes: int) -> tuple[int, int]:
    """Parameters of an experiment's network, and operations, 2 for each multiply-add, for an image as its crop."""
    with torch.device("meta"):  # values do not matter; drawing them takes longer than all else
        network = build_network(experiment, num_classes).eval()
    network.to_empty(device="cpu")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *experiment.crop))  # on the meta device, counting takes five times as long
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def gpu_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """What `bench_gpu.py` has measured, as tables by the names of `GPU_TITLES`; none where nothing was recorded.

    Hours are those of the training steps of all the experiment's epochs over the images of the official dataset.
    """
    found = {path.stem: json.loads(path.read_text())["rows"] for path in sorted(Path(folder).glob("*.json"))}
    compiled = [row for name in sorted(found) if name.startswith("compiled") for row in found[name]]
    rows = {
        "gpu_switches": _switches([*found.get("switches", ()), *compiled]),
        "gpu_recipe": [_recipe(row) for row in found.get("benchmarks", ())],
        "gpu_together": [
            {"multi-process service": mps, "runs at once": row["at_once"], RATE: round(row["images_per_second"], 1)}
            for name, mps in (("together", "no"), ("together_mps", "yes"))
            for row in found.get(name, ())
        ],
    }
    return {name: pd.DataFrame(made) for name, made in rows.items() if made}


def _switches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Beside float32 in the plain layout, where that was measured; others are left out."""
    plain = {row["experiment"]: row for row in rows if (row["precision"], row["channels_last"]) == ("float32", False)}
    made, order = [], list(plain)
    compared = [row for row in rows if row["experiment"] in order]
    for row in sorted(compared, key=lambda row: order.index(row["experiment"])):
        base = plain[row["experiment"]]
        others = [name for name in ("channels_last", "checkpointing", "compile") if row.get(name)]
        made.append(
            {
                "system": variant_label(row["experiment"].split("/")[1]),
                "switches": ", ".join([row["precision"], *others]),
                RATE: _number(row["images_per_second"]).round(1),
                "of float32's": (_number(row["images_per_second"]) / _number(base["images_per_second"])).round(2),
                MEMORY: _number(row["peak_gib"]).round(1),
                "of its memory": (_number(row["peak_gib"]) / _number(base["peak_gib"])).round(2),
            }
        )
    return made


def _number(value: float | None) -> np.float64:
    """NaN where the memory did not suffice."""
    return np.float64(np.nan if value is None else value)


def _recipe(row: dict[str, Any]) -> dict[str, Any]:
    spec = preset(row["experiment"])
    data = get_dataset(spec.benchmark)
    images = sum(data.official_counts[spec.train_split].values())
    return {
        "benchmark": data.name,
        "system": variant_label(row["experiment"].split("/")[1]),
        "crop": "x".join(map(str, row["crop"])),
        "batch": row["batch_size"],
        "accumulation": 1,
        "epochs": spec.epochs,
        RATE: _number(row["images_per_second"]).round(1),
        "hours": (images * spec.epochs / _number(row["images_per_second"]) / 3600).round(1),
        MEMORY: _number(row["peak_gib"]).round(1),
    }
