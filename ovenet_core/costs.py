"""What OVeNet costs beside HRNet, and beside an HRNet with as many parameters."""

from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovenet_core.experiments import Experiment, preset
from ovenet_core.models import build_network
from ovenet_core.study import Study
from ovenet_core.tables import variant_label

COMPARED = ("hrnet", "ovenet", "hrnet-wide")


def costs(study: Study) -> pd.DataFrame:
    """What each system costs: parameters, GFLOP, training time and memory, and each as a share of HRNet's.

    GFLOP are those of one forward pass of a picture as large as the crop. Hours are those of the clock, whatever else
    the machine had to do, so that they are not compared. Memory is of the runs that noted it.
    """
    rows = {}
    for name in COMPARED:
        runs = list(study.runs(name).values())
        spec = preset(f"{study.scale}/{name}")
        hours = [run.result["duration_seconds"] / 3600 for run in runs]
        memory = [m for run in runs if (m := run.result.get("peak_memory_gib"))]
        rows[variant_label(name)] = {
            "parameters, million": sizes(spec, study.classes)[0] / 1e6,
            "GFLOP": sizes(spec, study.classes)[1] / 1e9,
            "hours by the clock": np.mean(hours) if hours else np.nan,
            "memory, GiB": np.mean(memory) if memory else np.nan,
            "seeds": len(runs),
            "of them with memory": len(memory),
        }
    found = pd.DataFrame.from_dict(rows, orient="index")
    compared = found[["parameters, million", "GFLOP", "memory, GiB"]]
    shares = compared / compared.iloc[0]
    return found.join(shares.rename(columns=lambda name: f"{name.split(',')[0]}, of HRNet's"))


@lru_cache
def sizes(experiment: Experiment, num_classes: int) -> tuple[int, int]:
    """Parameters of an experiment's network, and operations, 2 for each multiply-add, for a picture as its crop."""
    network = build_network(experiment, num_classes).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *experiment.crop))  # on the meta device, counting takes five times as long
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops()
