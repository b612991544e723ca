"""From an experiment to what it names: its network, its loss, its images, its precision; the network of a run."""

import hashlib
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from ovenet_core.cross_entropy import IGNORE_INDEX, require_class_weights
from ovenet_core.data import DataError, Sample, SegmentationDataset, get_dataset
from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import OVeNet, build
from ovenet_core.training.checkpoint import SnapshotError, read_result
from ovenet_core.training.config import Experiment
from ovenet_core.weights import first_difference, is_ours, load_official, read_state


def build_network(experiment: Experiment, num_classes: int) -> OVeNet:
    """The experiment's network, with initial values from torch's random state."""
    return build(
        experiment.backbone,
        experiment.width,
        num_classes,
        experiment.branch_stage,
        experiment.tau,
        blocks=experiment.blocks,
        align_corners=experiment.align_corners,
        fuse_probabilities=experiment.fuse_probabilities,
        refinement_steps=experiment.refinement_steps,
        freeze_backbone=experiment.freeze_backbone,
        freeze_batchnorm=experiment.freeze_batchnorm,
        checkpointing=experiment.checkpointing,
    )


def build_loss(experiment: Experiment, num_classes: int) -> OVeNetLoss:
    """The experiment's loss; ValueError unless its class weights are as many as the classes."""
    require_class_weights(experiment.class_weights, num_classes)
    return OVeNetLoss(
        ohem=experiment.ohem,
        threshold=experiment.ohem_threshold,
        min_kept=experiment.ohem_min_kept,
        kappa=experiment.kappa,
        lambda_=experiment.lambda_,
        auxiliary_weight=experiment.auxiliary_weight,
        class_weights=experiment.class_weights,
        with_confidence=experiment.confidence_loss,
    )


def labelled_samples(data: SegmentationDataset, root: str | Path, field: str, split: str) -> list[Sample]:
    """The images of the split that a field names; DataError unless all have a label, and one of these a class."""
    samples = data.samples(root, split)
    if without := [sample.image for sample in samples if sample.label is None]:
        labelled = [name for name, folders in data.splits.items() if not set(folders) & set(data.unlabelled)]
        raise DataError(
            f"{field} is {split!r}, in which {len(without)} images have no label, such as {without[0]}; "
            f"expected a split with labels: choose one of {', '.join(labelled)}"
        )
    if not any((data.read_label(sample) != IGNORE_INDEX).any() for sample in samples):
        raise DataError(
            f"{field} is {split!r}, and no pixel of its {len(samples)} labels has a class, such as "
            f"{samples[0].label}; expected labels: restore them, or choose another split"
        )
    return samples


def autocast(experiment: Experiment, device: torch.device) -> AbstractContextManager:
    """bfloat16 autocast where the experiment asks for it."""
    if experiment.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, experiment.precision))


def warn_if_slow(experiment: Experiment, device: torch.device) -> None:
    """Warn where bfloat16 is asked of a processor that can only imitate it."""
    if experiment.precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(
            "this processor has no bfloat16 arithmetic and takes about twenty times as long to imitate it: "
            "set precision to float32, or use a GPU",
            stacklevel=3,
        )


def load_trained(
    source: str | Path, experiment: Experiment | None = None, device: str | torch.device = "cpu"
) -> tuple[Experiment, OVeNet]:
    """A trained network in evaluation mode, and its experiment.

    Args:
        source: the folder of a finished run, or a file of weights, under our names or the official ones.
        experiment: what the weights in a file are of; a run folder has its own.

    Raises:
        FileNotFoundError: no such file, or the folder has no checkpoint.
        ValueError: a file without an experiment, or one whose weights do not make up its network.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such run folder or file of weights; train first, or correct the path")
    if source.is_dir():
        source, experiment = source / "checkpoint.safetensors", run_experiment(source)
        if not source.exists():
            raise FileNotFoundError(
                f"no checkpoint at {source}: the run is not finished, or its weights were not "
                "kept; run it (again), or give another folder"
            )
    elif experiment is None:
        raise ValueError(f"{source} is no run folder: give the experiment that the weights are of as well")
    network = build_network(experiment, get_dataset(experiment.benchmark).num_classes)
    load_weights(network, read_state(source), source.name)
    layout = torch.channels_last if experiment.channels_last else torch.contiguous_format
    return experiment, network.to(device, memory_format=layout).eval()


def require_classes(experiment: Experiment, data: SegmentationDataset) -> None:
    """Raise DataError unless the network of an experiment predicts the classes of a dataset."""
    own = get_dataset(experiment.benchmark)
    if own.class_names != data.class_names:
        raise DataError(
            f"the network has the {own.num_classes} classes of {own.name}, expected the {data.num_classes} "
            f"of {data.name}; give another run_folder, or another dataset"
        )


def weights_identity(source: str | Path, experiment: Experiment) -> dict[str, str]:
    """What predictions of a trained network depend on: hashes of its configuration and of its weights' file."""
    file = Path(source) / "checkpoint.safetensors" if Path(source).is_dir() else Path(source)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"config_hash": experiment.config_hash, "weights": digest}


def select_device(device: str = "") -> torch.device:
    """The device of that name; without one a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def load_weights(network: OVeNet, state: dict[str, Tensor], source: str) -> None:
    """The weights of a whole network, under our names or the official ones.

    Raises:
        ValueError: they are of another network, with the first difference, or a part is missing.
    """
    if is_ours(state):
        if difference := first_difference(state, network.state_dict()):
            raise ValueError(
                f"{source} is of another network: {difference}; give a file of this network, or its experiment"
            )
        network.load_state_dict(state)
        return
    try:
        report = load_official(network, state, source)
    except KeyError as error:
        raise ValueError(f"{error.args[0]}; give a file of this network, or its experiment") from error
    if report.initial:
        raise ValueError(
            f"{source} has no weights for {', '.join(report.initial)}: it is not a trained network of "
            "this experiment; give another file, or its experiment"
        )


def load_initial_weights(
    network: OVeNet, experiment: Experiment, weights: str | Path | None, init_from: str | Path | None
) -> str:
    """Set the initial values that an experiment asks for beside random ones; says where they come from.

    Args:
        weights: file of `experiment.pretrained`.
        init_from: folder of the finished run of `experiment.init_from`.

    Raises:
        ValueError: one that the experiment names is not given.
    """
    name, reports = experiment.pretrained, []
    if name:
        if weights is None or Path(weights).name != name:
            raise ValueError(f"the experiment starts from {name}: give its path as weights (got {weights})")
        reports.append(str(load_official(network, read_state(weights), name, experiment.widen_pretrained)))
    if experiment.init_from:
        if init_from is None:
            raise ValueError(
                f"the experiment starts from a finished run of {experiment.init_from}: give its folder as init_from"
            )
        reports.append(load_baseline(network, init_from))
    return "\n".join(reports) or "random"


def load_baseline(network: OVeNet, run_folder: str | Path) -> str:
    """Give a network the backbone and the semantic head of a trained one (Table 5, "Fr"); says what was loaded.

    Raises:
        FileNotFoundError: the run is not finished.
        ValueError: its network has another backbone, width or number of classes.
    """
    file, experiment = Path(run_folder) / "checkpoint.safetensors", run_experiment(run_folder)
    if not file.exists():
        raise FileNotFoundError(f"{run_folder} has no checkpoint: finish that run first, or give another one")
    if experiment.branch_stage is not None:
        raise ValueError(f"{run_folder} is a run of OVeNet: give one of a baseline, which has no offsets")
    state = {n: t for n, t in read_state(file).items() if n.split(".")[0] != "offset_head"}
    own = {n: t for n, t in network.state_dict().items() if n.split(".")[0] != "offset_head"}
    if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in own.items()}:
        raise ValueError(
            f"{run_folder} is a run of {experiment.backbone}, width {experiment.width}, on "
            f"{experiment.benchmark}: its network is another one; give the run of the baseline"
        )
    network.load_state_dict(state, strict=False)
    digest = weights_identity(run_folder, experiment)["weights"][:12]
    return f"backbone and semantic head from a run of configuration {experiment.config_hash}, weights {digest}"


def run_experiment(run_folder: str | Path) -> Experiment:
    """The experiment of a run, from the configuration in its folder."""
    for name in ("result.json", "config.json"):
        if (file := Path(run_folder) / name).exists():
            try:
                return Experiment.from_json(read_result(file)["experiment"])
            except (KeyError, TypeError) as error:
                raise SnapshotError(
                    f"{file} has no experiment ({error!r}); it is damaged: restore it, or give another run folder"
                ) from error
    raise FileNotFoundError(f"{run_folder} has no result.json or config.json: it is no run folder; give one")
