"""Starting a run: from names and folders to a trainer, in this process or in several by torchrun.

python -m ovenet_core train EXPERIMENT                              one process
torchrun --nproc-per-node 4 -m ovenet_core train EXPERIMENT         four, on one machine
"""

import argparse
import dataclasses
import difflib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import record

from ovenet_core import utils
from ovenet_core.data import find, open_dataset
from ovenet_core.training import factory
from ovenet_core.training.config import Experiment
from ovenet_core.training.presets import preset
from ovenet_core.training.trainer import Trainer

LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")  # another process has died
WEIGHTS = "put it there, or give its folder as weights_root; `make weights` fetches that of the CamVid runs"
PLAIN = (int, float, str, list, dict, type(None))  # what papermill passes


def dataset_of(experiment: str, spec: Experiment) -> str:
    """The dataset of a preset, `synthetic/…` where its images are generated."""
    drawn = experiment.startswith("synthetic") and spec.benchmark == preset(experiment).benchmark
    return f"synthetic/{spec.benchmark}" if drawn else spec.benchmark


def collect_overrides(overrides: Any, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an experiment that a notebook is given: by its parameter `overrides`, and each by its own name.

    The latter is any variable with the name of a field, whether papermill defined it or somebody wrote it into the cell
    of parameters. Papermill defines whatever it is given, also what is neither field nor parameter, right after the
    parameters: what stands there, up to what the notebook defines later, has to be one of them.

    Args:
        overrides: a mapping, or one in YAML, as `papermill -p overrides "{epochs: 2}"` passes it; so may be a list.
        namespace: the notebook's `globals()`; its annotated variables are its parameters.

    Raises:
        ValueError: a name that is neither a parameter nor a field, with the nearest of these; no mapping; a parameter
            of another type than the notebook has for it.
    """
    try:
        found = yaml.safe_load(overrides) if isinstance(overrides, str) else overrides
    except yaml.YAMLError as error:
        raise ValueError(f"overrides is {overrides!r}; expected YAML, such as {{epochs: 2}} ({error})") from error
    if not isinstance(found or {}, Mapping):
        raise ValueError(f"overrides is {overrides!r}; expected fields of an experiment, such as {{epochs: 2}}")
    parameters = namespace["__annotations__"]
    for name, kind in parameters.items():
        value, exact = namespace[name], not (kind is float and type(namespace[name]) is int)
        if name != "overrides" and exact and type(value) is not kind:
            raise ValueError(f"{name} is {value!r}; expected {kind.__name__}")
    fields = [field.name for field in dataclasses.fields(Experiment) if field.name != "init_from"]
    given = {name: namespace[name] for name in fields if name in namespace}
    names = [name for name in namespace if not name.startswith("_")]
    names = names[max(names.index(name) for name in parameters) + 1 :]
    # What the notebook defines later, seen if a cell is run again, comes behind the first value that is not plain.
    for name in takewhile(lambda n: isinstance(namespace[n], PLAIN), names):
        if name not in fields:
            known = [*parameters, *fields]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise ValueError(f"no parameter of the notebook and no field of an experiment is called {name!r}; {hint}")
    lists = {n: yaml.safe_load(v) for n, v in given.items() if isinstance(v, str) and v.startswith("[")}
    return {**(found or {}), **given, **lists}


def create_trainer(
    project: Path,
    experiment: str,
    *,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    data_root: str = "",
    weights_root: str = "",
    run_folder: str = "",
    init_from: str = "",
    device: Any = "",
    workers: int = 0,
    cache_folder: str = "",
    **options: Any,
) -> Trainer:
    """The trainer of a preset with `overrides`; empty paths mean the usual places.

    These are `data/`, `weights/` and `runs/` of the project, and the folder `shared` beside it; generated scenes are
    drawn. Other options are those of `Trainer`.

    Raises:
        ValueError, DataError, FileNotFoundError: a name or a value that does not exist, a folder that is not there.
    """
    spec = preset(experiment, **(overrides or {}))
    _, root = open_dataset(dataset_of(experiment, spec), data_root, [project / "data", project / "../shared/datasets"])
    folder = Path(run_folder or project / "runs" / experiment / f"seed{seed}")
    begun = any((folder / name).exists() for name in ("snapshot.pt", "result.json"))  # then initial values are not read
    places = [weights_root] if weights_root else [project / "weights", project / "../shared/weights"]
    baseline = init_from or (str(project / "runs" / spec.init_from / f"seed{seed}") if spec.init_from else None)
    if baseline and not init_from and not begun and not Path(baseline, "result.json").exists():
        raise ValueError(
            f"{experiment} starts from a finished run of {spec.init_from}, seed {seed}: there is none "
            f"in {baseline}; train that first, or give the folder of such a run as init_from"
        )
    return Trainer(
        spec,
        root,
        folder,
        seed=seed,
        weights=find(spec.pretrained, *places, remedy=WEIGHTS) if spec.pretrained and not begun else None,
        init_from=baseline,
        device=device,
        workers=workers,
        cache=cache_folder or None,
        **options,
    )


def train_in_processes(number: int, project: Path, experiment: str, overrides: dict[str, Any], **options: Any) -> None:
    """Train in several processes of this machine, one for each GPU, with their log shown here as it comes.

    Interrupted, all of them end, with the last snapshot kept; when one dies the others end, and a second attempt is
    made from the last snapshot. Options are those of the command line, with `_` for `-`.

    Raises:
        RuntimeError: the run failed twice; the log above has the error.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    command += ["--max-restarts=1", "-m", "ovenet_core", "train", experiment, f"--project={project}"]
    command += [
        f"--set={yaml.safe_dump({n: v}, default_flow_style=True, width=10**6).strip()}" for n, v in overrides.items()
    ]
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value not in ("", None)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            while text := process.stdout.read1():
                sys.stdout.write(text.decode(errors="replace"))
                sys.stdout.flush()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise RuntimeError(
            f"training in {number} processes ended with status {process.returncode}; the first error in "
            "the log above is the cause. Run this again to go on from the last snapshot"
        )


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "ovenet_core train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="a preset, such as synthetic/ovenet or cityscapes/ovenet")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        dest="overrides",
        help="change a field of the experiment, such as epochs=2 or crop=[128,256]; may be repeated",
    )
    parser.add_argument("--seed", type=int, default=0)
    for name, text in {
        "data-root": "folder of the images",
        "weights-root": "folder of the initial weights",
        "run-folder": "where the run's files go",
        "init-from": "finished run that a frozen experiment starts from",
        "device": "cpu or cuda",
        "cache-folder": "folder for decoded images",
    }.items():
        parser.add_argument(f"--{name}", default="", help=f"{text}; by default the usual one")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare images, for each process")
    parser.add_argument("--snapshot-every", type=int, help="iterations; by default an epoch")
    parser.add_argument("--project", type=Path, default=Path(), help="folder with data/, weights/ and runs/; here")
    parsed = parser.parse_args(argv)
    try:
        parsed.overrides = _fields(parsed.overrides)
        preset(parsed.experiment, **parsed.overrides)
    except ValueError as error:
        parser.error(str(error))
    return parsed


def _fields(settings: Sequence[str]) -> dict[str, Any]:
    """Fields from `name=value` or, as YAML has it, `{name: value}`."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, sign, value = setting.partition("=")
        try:
            whole = setting.startswith("{")
            loaded = yaml.safe_load(setting) if whole else {name: yaml.safe_load(value)} if sign else None
        except yaml.YAMLError as error:
            raise ValueError(f"--set {setting}: expected FIELD=VALUE, such as epochs=2 ({error})") from error
        if not isinstance(loaded, dict):
            raise ValueError(f"--set {setting}: expected FIELD=VALUE, such as epochs=2")
        found |= loaded
    return found


@record
def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line, alone or as one of torchrun's processes."""
    options = vars(arguments(argv))
    try:
        with utils.process_group(factory.select_device(options.pop("device"))) as device:
            trainer = create_trainer(options.pop("project"), options.pop("experiment"), device=device, **options)
            result = trainer.run()
            if trainer.writes:
                final = list(result["metrics"])[-1]
                print(f"{trainer.result}: mIoU of {final} {100 * result['metrics'][final]['miou']:.2f}%", flush=True)
    except (DistError, RuntimeError) as error:
        if isinstance(error, DistError) or any(sign in str(error) for sign in LOST):
            # Another process has died. Its own error is the one to see; torchrun ends this one meanwhile.
            time.sleep(60)
        raise
