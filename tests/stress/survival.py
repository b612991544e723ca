"""Kill training at random moments, again and again, and hold its weights against those of a run that never stopped.

    python tests/stress/survival.py --kills 100 --record results/survival.json

Processes are forked from this one, which has imported everything, so that an attempt starts at once.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch._dynamo  # which the first optimizer of a process would import
import torch.distributed as dist
from safetensors.torch import load_file
from tqdm import tqdm

from ovenet_core.data.synthetic.writer import write_scenes
from ovenet_core.training import create_trainer, preset
from ovenet_core.utils import provenance, write_json

SPEC = preset(
    "synthetic/ovenet",
    crop=[32, 64],
    epochs=2,
    width=4,
    batch_size=2,
    validate_every=2,
    ohem_min_kept=2048,
    backbone="hrnet_ocr",
    image_size=[32, 64],
)  # with dropout, which draws random numbers
SIZES = {"train": 8, "val": 1}
# Stages of one module each: most of the time of a network this small goes into their number.
ONE_MODULE = {2: 1, 3: 1, 4: 1}
OPTIONS = {"device": "cpu", "progress": False, "snapshot_every": 1}
OPTIONS["network_options"] = {"backbone_modules": ONE_MODULE, "offset_modules": ONE_MODULE}


def start(folder: Path, data: Path, processes: int) -> list[int]:
    """Fork the processes of one attempt; they go on from the snapshot in the folder, if there is one."""
    store = tempfile.mktemp(dir=folder.parent)
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                if processes > 1:
                    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
                create_trainer(SPEC, data, folder, **OPTIONS).run()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return children


def finish(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run_whole(folder: Path, data: Path, processes: int) -> float:
    """A run that is not disturbed; gives its seconds."""
    begun = time.perf_counter()
    if any(finish(start(folder, data, processes))):
        raise RuntimeError("the undisturbed run failed; its error is above")
    return time.perf_counter() - begun


def run_disturbed(folder: Path, data: Path, processes: int, longest: float, kills: int, bar: tqdm) -> dict[str, int]:
    """Kill a run up to `kills` times and let it finish; what was seen."""
    counts = {"kills": 0, "while_writing": 0, "before_the_first_snapshot": 0}
    while not (folder / "result.json").exists():
        children = start(folder, data, processes)
        if counts["kills"] == kills:
            if any(finish(children)):
                raise RuntimeError(f"{folder}: the run could not be continued; its error is above")
            continue
        time.sleep(random.uniform(0, longest))
        if (folder / "result.json").exists():
            finish(children)
            continue
        random.shuffle(children)  # the one that dies first, and those that are ended because of it
        for child in children:
            os.kill(child, signal.SIGKILL)
        if any(code not in (0, -signal.SIGKILL) for code in finish(children)):
            raise RuntimeError(f"{folder}: the run failed before it was killed; its error is above")
        counts["kills"] += 1
        counts["while_writing"] += any(folder.glob(".snapshot.pt.*.tmp"))
        counts["before_the_first_snapshot"] += not (folder / "snapshot.pt").exists()
        bar.update()
    return counts


def differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors of two checkpoints that are not the same bits."""
    a, b = load_file(one / "checkpoint.safetensors"), load_file(other / "checkpoint.safetensors")
    return [name for name in a.keys() | b.keys() if name not in a or name not in b or not torch.equal(a[name], b[name])]


def survive(kills: int, processes: int, seed: int = 0) -> dict[str, int]:
    """At least that many kills over as many runs as they take, all of which must have the undisturbed run's weights."""
    random.seed(seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place, tqdm(total=kills, desc=f"kills, {processes} processes") as bar:
        root = Path(place)
        data = write_scenes(root / "data", split_sizes=SIZES, size=(64, 128), progress=False)
        longest = run_whole(root / "whole", data, processes)
        totals = {"processes": processes, "runs": 0, "kills": 0, "while_writing": 0, "before_the_first_snapshot": 0}
        while totals["kills"] < kills:
            folder = root / f"run{totals['runs']}"
            folder.mkdir()
            each = min(kills - totals["kills"], random.randint(4, 10))
            counts = run_disturbed(folder, data, processes, 0.6 * longest, each, bar)
            if names := differing(root / "whole", folder):
                raise RuntimeError(f"after {counts['kills']} kills other weights than without, in {names[:3]} …")
            totals = {name: value + counts.get(name, 0) for name, value in totals.items()} | {
                "runs": totals["runs"] + 1
            }
    return totals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    survived = [survive(options.kills, processes) for processes in options.processes]
    print(json.dumps(survived))
    if options.record:
        write_json(options.record, {"survived": survived} | provenance(torch.device("cpu")))


if __name__ == "__main__":
    main()
