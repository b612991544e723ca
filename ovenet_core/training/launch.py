"""Start a run from names: a preset, folders in their usual places; in this process or in several by torchrun."""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from torch.distributed.elastic.multiprocessing.errors import record

from ovenet_core.data import find, open_dataset
from ovenet_core.training.checkpoint import RESULT, has_begun
from ovenet_core.training.config import Experiment, select_device
from ovenet_core.training.factory import create_trainer
from ovenet_core.training.presets import preset
from ovenet_core.training.trainer import Trainer
from ovenet_core.utils import ConfigError, RunError, process_group, right_name

EXAMPLES = """examples:
  python -m ovenet_core train synthetic/ovenet                                          one process
  python -m ovenet_core train camvid-half/ovenet --set tau=0.2 --set epochs=30          with other fields
  torchrun --nproc-per-node 4 -m ovenet_core train cityscapes/ovenet                    four GPUs of one machine
"""
WEIGHTS = "put it there, or give its folder as weights_root; `make weights` fetches that of the CamVid runs"
PLAIN = (int, float, str, list, dict, type(None))  # what papermill passes


def dataset_of(experiment: str, config: Experiment) -> str:
    """Return the dataset of a preset, `synthetic/…` where its images are generated."""
    generated = experiment.startswith("synthetic") and config.benchmark == preset(experiment).benchmark
    return f"synthetic/{config.benchmark}" if generated else config.benchmark


def create_preset_trainer(
    project: Path,
    experiment: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    data_root: str = "",
    weights_root: str = "",
    run_folder: str = "",
    init_from: str = "",
    **options: Any,
) -> Trainer:
    """Create the trainer of a preset with `overrides`; an empty path means the usual place.

    These are `data/`, `weights/` and `runs/` of the project, and the folder `shared` next to it. Generated scenes are
    drawn if they are not there. Other options are those of `create_trainer`.
    """
    config = preset(experiment, **(overrides or {}))
    places = [project / "data", project / "../shared/datasets"]
    _, root = open_dataset(dataset_of(experiment, config), data_root, places)
    folder = Path(run_folder or project / "runs" / experiment / f"seed{seed}")
    begun = has_begun(folder)
    weight_folders = [weights_root] if weights_root else [project / "weights", project / "../shared/weights"]
    if config.init_from.endswith((".pth", ".safetensors")) and not init_from and not begun:
        init_from = str(find(config.init_from, *weight_folders, fix=WEIGHTS))
    elif config.init_from and not init_from:
        init_from = str(project / "runs" / config.init_from / f"seed{seed}")
        if not begun and not Path(init_from, RESULT).exists():
            expected = f"a finished run of {config.init_from}, seed {seed}, which {experiment} starts from"
            raise RunError(init_from, "none", expected, "train it first, or give the folder of such a run as init_from")
    weights = None
    if config.pretrained and not begun:
        weights = find(config.pretrained, *weight_folders, fix=WEIGHTS)
    options |= {"seed": seed, "weights": weights, "init_from": init_from or None}
    return create_trainer(config, root, folder, **options)


def collect_overrides(overrides: Any, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the fields of an experiment that a notebook is given: in its parameter `overrides`, or by their own name.

    A variable with the name of a field counts, whether papermill or a person wrote it into the parameters. Papermill
    also defines what the notebook does not know, right after the parameters: such a name is refused.
    `overrides` is a mapping, or one in YAML, as `papermill -p overrides "{epochs: 2}"` passes it; `namespace` the
    notebook's `globals()`, whose annotated variables are its parameters.

    Raises:
        ConfigError: a name that is neither a parameter nor a field; no mapping; a parameter not of its annotated type.
    """
    together = _mapping("overrides", overrides, "fields of an experiment, such as {epochs: 2}")
    parameters = namespace["__annotations__"]
    for name, kind in parameters.items():
        value = namespace[name]
        if name != "overrides" and type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(name, repr(value), kind.__name__, f"correct {name}")
    names = [field.name for field in fields(Experiment) if field.name != "init_from"]
    variables = [name for name in namespace if not name.startswith("_")]
    later = variables[1 + max(map(variables.index, parameters)) :]
    # The first value that is not plain is the notebook's own; what follows it may be too, if a cell runs again.
    for name in takewhile(lambda name: isinstance(namespace[name], PLAIN), later):
        if name not in names:
            raise ConfigError(name, "no such parameter or field", right_name(name, [*parameters, *names]), "correct it")
    by_name = {name: namespace[name] for name in names if name in namespace}
    lists = {n: yaml.safe_load(v) for n, v in by_name.items() if isinstance(v, str) and v.startswith("[")}
    return {**together, **by_name, **lists}


def _mapping(where: str, value: Any, expected: str, field: str = "") -> Mapping[str, Any]:
    """Return a mapping, given as one or in YAML; or that of a field to its value in YAML. Empty is an empty mapping."""
    try:
        parsed = yaml.safe_load(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ConfigError(where, f"{value!r}, which is no YAML ({error})", expected, f"correct {where}") from error
    mapping = {field: parsed} if field else parsed or {}
    if not isinstance(mapping, Mapping):
        raise ConfigError(where, repr(value), expected, f"correct {where}")
    return mapping


def train_in_processes(number: int, project: Path, experiment: str, overrides: dict[str, Any], **options: Any) -> None:
    """Train in several processes of this machine, one for each GPU, and show their log here.

    Interrupted, all of them end, with the last snapshot kept. If one dies, the others end, and torchrun starts all
    again from the last snapshot, once; a RunError if that fails too. Options are those of the command line.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={number}"]
    command += ["--max-restarts=1", "-m", "ovenet_core", "train", experiment, f"--project={project}"]
    for name, value in overrides.items():
        command.append(f"--set={yaml.safe_dump({name: value}, default_flow_style=True, width=10**6).strip()}")
    command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value not in ("", None)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            while text := process.stdout.read1():
                print(text.decode(errors="replace"), end="", flush=True)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        found = f"status {process.returncode} from {number} processes"
        fix = "look for the first error in the log above; run again to go on from the last snapshot"
        raise RunError(experiment, found, "a finished training", fix)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; a wrong name or value ends the program with status 2 before anything is done."""
    texts = {"description": "Train one experiment with one seed, or go on with it.", "epilog": EXAMPLES}
    parser = argparse.ArgumentParser("ovenet_core train", formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    parser.add_argument("experiment", help="a preset, such as synthetic/ovenet or cityscapes/ovenet")
    setting = {"action": "append", "default": [], "metavar": "FIELD=VALUE", "dest": "overrides"}
    text = "change a field of the experiment, such as epochs=2 or crop=[128,256]; may be repeated"
    parser.add_argument("--set", **setting, help=text)
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
        settings, parsed.overrides = parsed.overrides, {}
        for setting in settings:
            name, sign, value = setting.partition("=")
            field, text = (name, value) if sign and not name.startswith("{") else ("", setting)
            parsed.overrides |= _mapping("--set", text, "FIELD=VALUE, such as epochs=2", field)
        preset(parsed.experiment, **parsed.overrides)
    except ConfigError as error:
        parser.error(str(error))
    return parsed


@record
def main(argv: Sequence[str] | None = None) -> None:
    """Train from the command line, alone or as one of torchrun's processes."""
    options = vars(arguments(argv))
    with process_group(select_device(options.pop("device"))) as device:
        trainer = create_preset_trainer(options.pop("project"), options.pop("experiment"), device=device, **options)
        result = trainer.run()
        if trainer.is_main_process:
            final = list(result["metrics"])[-1]
            print(f"{trainer.result}: mIoU of {final} {100 * result['metrics'][final]['miou']:.2f}%", flush=True)
