"""What OVeNet costs next to HRNet, and next to an HRNet with as many parameters; what training costs on a GPU."""

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovenet_core.data import get_dataset
from ovenet_core.study.comparison import Study
from ovenet_core.study.tables import Table, variant_label
from ovenet_core.training import Experiment, build_network, preset

COMPARED = ("hrnet", "ovenet", "hrnet-wide")
PARAMETERS, GFLOP, MEMORY = "parameters, million", "GFLOP", "memory, GiB"
STEP, HOURS, RATE = "training step, of HRNet's", "hours by the clock", "images/s"
StepTimes = Mapping[tuple[str, int, int, int], float]  # by system, width of the network, height and width of the crop
GPU_TITLES = {
    "gpu_switches": "What each switch gives: W48 at 512x1024, batches of 12, next to float32 in the plain layout",
    "gpu_recipe": "One GPU: the paper's benchmarks with bfloat16 and channels-last; training steps alone",
    "gpu_together": "Runs of the study at once on one GPU: OVeNet, W18 at 360x480, images/s of all",
}


def cost_table(study: Study, steps: StepTimes) -> pd.DataFrame:
    """Make a table of parameters, GFLOP, training time and memory of each system, and each as a share of HRNet's.

    GFLOP are of one forward pass of an image as large as the crop. Hours are by the clock, whatever else the machine
    did, and so are not compared; steps were measured on a quiet machine. Memory is of the runs that noted it.
    """
    rows, width = {}, preset(f"{study.protocol}/hrnet").width
    for name in COMPARED:
        runs, experiment = study.runs(name).values(), preset(f"{study.protocol}/{name}")
        parameters, operations = network_size(experiment, study.dataset.num_classes)
        hours = [run.result["duration_seconds"] / 3600 for run in runs]
        memory = [gib for run in runs if (gib := run.result.get("peak_memory_gib"))]
        step = 1.0 if name == "hrnet" else steps.get((name, width, *experiment.crop), np.nan)
        network = {PARAMETERS: parameters / 1e6, GFLOP: operations / 1e9, STEP: step}
        means = {key: np.mean(of_runs) if of_runs else np.nan for key, of_runs in ((HOURS, hours), (MEMORY, memory))}
        counts = {"seeds": len(runs), "of them with memory": len(memory)}
        rows[variant_label(name)] = network | means | counts | {"runs": " ".join(str(run.folder) for run in runs)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    for column, share in ((PARAMETERS, "parameters"), (GFLOP, "GFLOP"), (MEMORY, "memory")):
        table.insert(len(table.columns) - 1, f"{share}, of HRNet's", table[column] / table[column].iloc[0])
    return table


def step_times(folder: str | Path) -> StepTimes:
    """Read the times of training steps, as shares of HRNet's, that `make bench` left in a folder, if it did."""
    path = Path(folder) / "bench.json"
    rows = json.loads(path.read_text())["measurements"] if path.exists() else ()
    return {(r["system"], r["width"], *r["crop"]): r["measured"] for r in rows if r.get("id") == "training_step"}


@lru_cache
def network_size(experiment: Experiment, num_classes: int) -> tuple[int, int]:
    """Count a network's parameters, and its operations (2 for a multiply-add) for an image as large as the crop."""
    experiment = replace(experiment, channels_last=False)  # with it a CPU takes fewer operations than the network has
    with torch.device("meta"):  # values do not matter; drawing them takes longer than all else
        network = build_network(experiment, num_classes).eval()
    network.to_empty(device="cpu")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *experiment.crop))  # on the meta device, counting takes five times as long
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()


def gpu_tables(folder: str | Path) -> list[Table]:
    """Make the tables of what `bench_gpu.py` has measured; none where nothing was recorded."""
    files = {path.stem: pd.DataFrame(json.loads(path.read_text())["rows"]) for path in Path(folder).glob("*.json")}
    made = {}
    if "switches" in files:
        compiled = [files[name] for name in sorted(files) if name.startswith("compiled")]
        made["gpu_switches"] = _compare_switches(pd.concat([files["switches"], *compiled], ignore_index=True))
    if "benchmarks" in files:
        made["gpu_recipe"] = _recipe(files["benchmarks"])
    together = {"together": "no", "together_mps": "yes"}
    if at_once := [files[name].assign(mps=mps) for name, mps in together.items() if name in files]:
        names = {"mps": "multi-process service", "at_once": "runs at once", "images_per_second": RATE}
        made["gpu_together"] = pd.concat(at_once)[[*names]].rename(columns=names).round(1)
    return [Table(name, "gpu", GPU_TITLES[name], rows) for name, rows in made.items()]


def _compare_switches(rows: pd.DataFrame) -> pd.DataFrame:
    """Put each measurement next to float32 in the plain layout; experiments without the latter are left out."""
    plain = rows[(rows["precision"] == "float32") & ~rows["channels_last"]].set_index("experiment")
    rows = pd.concat(rows[rows["experiment"] == name] for name in plain.index)
    base = plain.loc[rows["experiment"]].set_index(rows.index)
    switches = [name for name in ("channels_last", "checkpointing", "compile") if name in rows]
    used = [[row["precision"], *(s for s in switches if row[s] is True)] for row in rows.to_dict("records")]
    rate, memory = rows["images_per_second"].astype(float), rows["peak_gib"].astype(float)
    shares = (rate / base["images_per_second"]).round(2), (memory / base["peak_gib"]).round(2)
    numbers = {RATE: rate.round(1), "of float32's": shares[0], MEMORY: memory.round(1), "of its memory": shares[1]}
    systems = [variant_label(name.split("/")[1]) for name in rows["experiment"]]
    return pd.DataFrame({"system": systems, "switches": [", ".join(names) for names in used]} | numbers)


def _recipe(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute the hours of the training steps of all epochs over the images of the official dataset."""
    experiments = [preset(name) for name in rows["experiment"]]
    datasets = [get_dataset(e.benchmark) for e in experiments]
    images = [sum(d.official_counts[e.train_split].values()) for d, e in zip(datasets, experiments, strict=True)]
    epochs, rate = np.array([e.epochs for e in experiments]), rows["images_per_second"].astype(float)
    systems = [variant_label(name.split("/")[1]) for name in rows["experiment"]]
    crops = ["x".join(map(str, crop)) for crop in rows["crop"]]
    table = {"benchmark": [d.name for d in datasets], "system": systems, "crop": crops, "batch": rows["batch_size"]}
    table |= {"accumulation": 1, "epochs": epochs, RATE: rate.round(1)}
    table["hours"] = (np.array(images) * epochs / rate / 3600).round(1)
    return pd.DataFrame(table | {MEMORY: rows["peak_gib"].astype(float).round(1)})
