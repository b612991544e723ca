"""The whole study under one protocol: train and score every variant, then make all tables, figures and claims.

    python workflow/study.py synthetic-short --cores 2

Runs that are done stay: give the same command after an interruption, or to add seeds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from ovenet_core.study import Grid, GridRun
from ovenet_core.training import PROTOCOLS, STUDY, dataset_of, preset

PROJECT = Path(__file__).parents[1]
FIRST = ("hrnet", "ovenet")  # the systems that get all seeds


def run(*command: str) -> bool:
    """Run a module of this environment in the project's root; return whether it succeeded."""
    print("+", *command[:4], "…", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, check=False).returncode == 0


def execute(notebook: str, folder: Path, **parameters) -> bool:
    """Execute a notebook into a folder; return whether it succeeded."""
    source, executed = f"notebooks/{notebook}.ipynb", str(folder / f"{notebook}.ipynb")
    return run("papermill", source, executed, "--no-progress-bar", "-y", yaml.safe_dump(parameters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpus = torch.cuda.device_count()
    parser.add_argument("protocol", choices=PROTOCOLS, help=f"one of {', '.join(PROTOCOLS)}", metavar="protocol")
    parser.add_argument("--cores", type=int, default=2, help="runs at a time")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of HRNet and OVeNet; all other variants have one")
    parser.add_argument("--variants", nargs="+", default=list(STUDY), help="the variants; by default all")
    parser.add_argument("--data-root", default="", help="the dataset's folder, if it is not in data/ of the project")
    parser.add_argument("--weights-root", default="", help="the pretrained weights' folder, if it is not weights/")
    parser.add_argument("--gpus", type=int, default=gpus, help="GPUs to share out, one to a run; by default all")
    parser.add_argument("--root", default="runs/study", help="the folder for the runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the grid")
    options = parser.parse_args()
    protocol, root = options.protocol, Path(options.root).absolute()
    places = {"data_root": options.data_root, "weights_root": options.weights_root}
    more = [*options.set, *(f"{name}={place}" for name, place in places.items() if place)]
    gpus = ["--resources", f"gpu={options.gpus}"] if options.gpus else []
    given = yaml.safe_load("\n".join(setting.replace("=", ": ", 1) for setting in options.set)) or {}
    overrides = Grid.from_config({"protocol": protocol, "variants": options.variants} | given).overrides
    grids, more_seeds = [(",".join(options.variants), "0")], ",".join(map(str, range(1, options.seeds)))
    if more_seeds and (first := ",".join(name for name in FIRST if name in options.variants)):
        grids.append((first, more_seeds))
    done = []  # what fails does not stop the rest
    for variants, seeds in grids:
        settings = [f"protocol={protocol}", f"variants=[{variants}]", f"seeds=[{seeds}]", "scores=True", f"root={root}"]
        settings += more
        done.append(run("snakemake", "--cores", str(options.cores), *gpus, "--config", *settings))
    dataset = dataset_of(f"{protocol}/ovenet", preset(f"{protocol}/ovenet"))
    runs, folder = [str(root / protocol)], root / protocol / "report"
    folder.mkdir(parents=True, exist_ok=True)
    done.append(execute("06_tables", folder, roots=runs, protocols=[protocol], output_folder=str(folder / "tables")))
    if set(FIRST) <= set(options.variants):
        baseline, ovenet = (GridRun(protocol, variant, 0, overrides, root) for variant in FIRST)
        compared = {"baseline_run": str(baseline.folder), "ovenet_run": str(ovenet.folder)}
        compared |= {"dataset": dataset, "data_root": options.data_root}
        done.append(execute("07_figures", folder, **compared, output_folder=str(folder / "figures")))
    done.append(execute("09_claims", folder, roots=runs, protocol=protocol))
    print(f"tables, figures and claims are in {folder}")
    if not all(done):
        sys.exit("not all of it succeeded: see above, and log.txt and the executed notebooks in the runs' folders")


if __name__ == "__main__":
    main()
