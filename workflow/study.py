"""The whole study at one scale: every variant trained and scored, then all tables, figures and claims.

    python workflow/study.py toy --cores 2

What is done is not done again: give the same command after an interruption, or to add seeds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from ovenet_core.study import Grid, GridRun
from ovenet_core.training import PROTOCOLS, VARIANTS, dataset_of, preset

PROJECT = Path(__file__).parents[1]
NAMES = {"toy": "synthetic-short", "pocket": "camvid-half", "paper": "cityscapes"}  # of the README
FIRST = ("hrnet", "ovenet")  # the systems that get all seeds


def run(*command: str) -> bool:
    """A program of this environment, in the project's root; whether it succeeded."""
    print("+", *command[:4], "…", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=PROJECT, check=False).returncode == 0


def show(notebook: str, folder: Path, **parameters) -> bool:
    """A notebook with parameters, into a folder."""
    source, executed = f"notebooks/{notebook}.ipynb", str(folder / f"{notebook}.ipynb")
    return run("papermill", source, executed, "--no-progress-bar", "-y", yaml.safe_dump(parameters))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scale", help=f"one of {', '.join([*NAMES, *PROTOCOLS])}")
    parser.add_argument("--cores", type=int, default=2, help="cells that run at a time")
    parser.add_argument("--seeds", type=int, default=3, help="of HRNet and OVeNet; all other variants have one")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), help="all, if none is named")
    parser.add_argument("--data-root", default="", help="where the dataset lies, if not in data/ of the project")
    parser.add_argument("--weights-root", default="", help="where the initial weights lie, if not in weights/ of it")
    parser.add_argument(
        "--gpus",
        type=int,
        default=torch.cuda.device_count(),
        help="GPUs to share out, one to a cell; by default those that there are",
    )
    parser.add_argument("--root", default="runs/study", help="where the runs go")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the grid")
    options = parser.parse_args()
    scale, root = NAMES.get(options.scale, options.scale), Path(options.root).absolute()
    places = {"data_root": options.data_root, "weights_root": options.weights_root}
    more = [*options.set, *(f"{name}={place}" for name, place in places.items() if place)]
    gpus = ["--resources", f"gpu={options.gpus}"] if options.gpus else []
    given = yaml.safe_load("\n".join(setting.replace("=", ": ", 1) for setting in options.set)) or {}
    overrides = Grid.from_config({"scale": scale, "variants": options.variants} | given).overrides
    grids, more_seeds = [(",".join(options.variants), "0")], ",".join(map(str, range(1, options.seeds)))
    if more_seeds and (first := ",".join(name for name in FIRST if name in options.variants)):
        grids.append((first, more_seeds))
    done = []  # what fails does not stop the rest
    for variants, seeds in grids:
        settings = [f"scale={scale}", f"variants=[{variants}]", f"seeds=[{seeds}]", "scores=True", f"root={root}"]
        settings += more
        done.append(run("snakemake", "--cores", str(options.cores), *gpus, "--config", *settings))
    data = {"dataset": dataset_of(f"{scale}/ovenet", preset(f"{scale}/ovenet")), "data_root": options.data_root}
    runs, folder = [str(root / scale)], root / scale / "report"
    folder.mkdir(parents=True, exist_ok=True)
    done.append(show("06_tables", folder, roots=runs, scales=[scale], output_folder=str(folder / "tables")))
    if set(FIRST) <= set(options.variants):
        baseline, ovenet = (GridRun(scale, variant, 0, overrides, root) for variant in FIRST)
        compared = {"baseline_run": str(baseline.folder), "ovenet_run": str(ovenet.folder)}
        done.append(show("07_figures", folder, **data, **compared, output_folder=str(folder / "figures")))
    done.append(show("09_claims", folder, roots=runs, scale=scale))
    print(f"tables, figures and claims are in {folder}")
    if not all(done):
        sys.exit("not all of it succeeded: see above, and log.txt and the executed notebooks in the cells' folders")


if __name__ == "__main__":
    main()
