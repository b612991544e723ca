"""From an experiment to its parts: network, loss, images, optimizer, and the trainer that they are handed to."""

import hashlib
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import DataLoader

from ovenet_core import data, utils
from ovenet_core.cross_entropy import IGNORE_INDEX, require_class_weights
from ovenet_core.data import Sample, SegmentationDataset, get_dataset
from ovenet_core.evaluation import Evaluation, evaluate, predict_classes
from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import OVeNet, build
from ovenet_core.training.checkpoint import CHECKPOINT, RESULT, SNAPSHOT, run_experiment
from ovenet_core.training.config import Experiment, autocast
from ovenet_core.training.trainer import Trainer
from ovenet_core.utils import ConfigError, DataError, RunError, WeightsError
from ovenet_core.weights import is_ours, load_official, load_own, read_state


def create_trainer(
    experiment: Experiment,
    data_root: str | Path,
    run_folder: str | Path,
    *,
    seed: int = 0,
    weights: str | Path | None = None,
    init_from: str | Path | None = None,
    device: str | torch.device = "",
    workers: int = 0,
    cache: str | Path | None = None,
    network_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """Build the parts of a run and hand them to its trainer.

    Args:
        experiment: what to train.
        data_root: folder of the dataset's images.
        run_folder: where the run's files go; a snapshot in it is continued.
        seed: of the initial values, the order of the images and the augmentation.
        weights: file of `experiment.pretrained`; required if the experiment names one and the run has not begun.
        init_from: folder of the finished run of `experiment.init_from`; likewise.
        device: "cpu", "cuda", …; by default a GPU if there is one.
        workers: processes that prepare images; the outcome does not depend on it.
        cache: folder for the decoded training images (`DecodedCache`), so no epoch decodes them again.
        network_options: further arguments of `build`.
        options: `snapshot_every` and `progress` of `Trainer`.

    Raises:
        SnapshotError: the folder holds another experiment, seed or images, or a damaged snapshot.
        ConfigError: class weights of another number than the classes; initial weights that are not given.
        DataError: a split without labels.
    """
    device, folder = torch.device(device) if device else select_device(), Path(run_folder)
    dataset = get_dataset(experiment.benchmark)
    loss = build_loss(experiment, dataset.num_classes).to(device)
    fields = {"train": "train_split", "val": "val_split"}
    samples = {
        name: labelled_samples(dataset, data_root, field, getattr(experiment, field)) for name, field in fields.items()
    }
    loader = build_loader(
        experiment, _cached(dataset, samples["train"], cache), samples["train"], seed, workers, device
    )
    warn_if_slow(experiment, device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = build_network(experiment, dataset.num_classes, **(network_options or {}))
    has_begun = (folder / SNAPSHOT).exists() or (folder / RESULT).exists()
    report = "" if has_begun else load_initial_weights(network, experiment, weights, init_from)
    network.to(device, memory_format=_memory_format(experiment))
    if utils.world_size() > 1 and device.type == "cuda":  # there is none for CPUs
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    optimizer = build_optimizer(experiment, network)
    scheduler = PolynomialLR(optimizer, loader.batch_sampler.total, experiment.poly_power)
    return Trainer(
        experiment,
        seed,
        folder,
        network=network,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        loader=loader,
        validate=build_validation(experiment, dataset, samples["val"], device),
        samples=samples,
        load_report=report,
        **options,
    )


def build_network(experiment: Experiment, num_classes: int, **options: Any) -> OVeNet:
    """Build the experiment's network, with initial values from torch's random state."""
    return build(num_classes, experiment, checkpointing=experiment.checkpointing, **options)


def build_loss(experiment: Experiment, num_classes: int) -> OVeNetLoss:
    """Build the experiment's loss; ConfigError unless its class weights are as many as the classes."""
    require_class_weights(experiment.class_weights, num_classes)
    return OVeNetLoss(experiment)


def build_optimizer(experiment: Experiment, network: nn.Module) -> torch.optim.Optimizer:
    """Build SGD with momentum (section 4.1) for the parameters that are trained."""
    return torch.optim.SGD(
        [p for p in network.parameters() if p.requires_grad],
        lr=experiment.learning_rate,
        momentum=experiment.momentum,
        weight_decay=experiment.weight_decay,
    )


def build_loader(
    experiment: Experiment,
    source: SegmentationDataset | data.DecodedCache,
    samples: Sequence[Sample],
    seed: int,
    workers: int,
    device: torch.device,
) -> DataLoader:
    """Build the loader of augmented images; its batch sampler gives this process its share of every batch."""
    images = data.TrainingDataset(
        source,
        samples,
        seed,
        crop=experiment.crop,
        image_size=experiment.image_size,
        scale_range=experiment.scale_range,
        flip=experiment.flip,
    )
    batches = data.DistributedBatchSampler(
        len(samples),
        experiment.batch_size,
        experiment.epochs,
        seed,
        rank=utils.rank(),
        processes=utils.world_size(),
        micro_batch_size=experiment.micro_batch_size,
    )
    return DataLoader(
        images,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it draws from torch's random state
    )


def build_validation(
    experiment: Experiment, dataset: SegmentationDataset, samples: Sequence[Sample], device: torch.device
) -> Callable[..., dict[str, Evaluation]]:
    """Return a function that scores a network's predictions (S_i, S_s, S_f), at the size of the labels."""
    share = math.ceil(len(samples) / utils.world_size())
    options = {"image_size": experiment.image_size, "channels_last": experiment.channels_last}

    def validate(network: OVeNet, show: Callable[[str], None]) -> dict[str, Evaluation]:
        utils.broadcast(network.buffers())  # of the running statistics, the first process's are kept
        counter = itertools.count(1)

        def read(sample: Sample) -> dict[str, Tensor]:
            show(f"validating {next(counter)}/{share}")
            return predict_classes(network, dataset.read_image(sample), **options)

        with autocast(experiment, device):
            return evaluate(dataset, samples, read, boundaries=False, workers=1, progress=False)

    return validate


def _cached(
    dataset: SegmentationDataset, samples: Sequence[Sample], cache: str | Path | None
) -> SegmentationDataset | data.DecodedCache:
    """Return where training images are read; the first process decodes images that the cache lacks."""
    if not cache:
        return dataset
    if utils.rank() > 0:
        utils.barrier()
    source = data.DecodedCache.build(dataset, samples, cache, progress=utils.rank() == 0)
    if utils.rank() == 0:
        utils.barrier()
    return source


def _memory_format(experiment: Experiment) -> torch.memory_format:
    return torch.channels_last if experiment.channels_last else torch.contiguous_format


def labelled_samples(dataset: SegmentationDataset, root: str | Path, field: str, split: str) -> list[Sample]:
    """List the images of the split that a field names; DataError unless all have labels, and some pixel a class."""
    samples = dataset.samples(root, split)
    if without := [sample.image for sample in samples if sample.label is None]:
        labelled = [name for name, folders in dataset.splits.items() if not set(folders) & set(dataset.unlabelled)]
        found = f"{split!r}, where {len(without)} images have no label, such as {without[0]}"
        raise DataError(field, found, "a split with labels", f"choose one of {', '.join(labelled)}")
    if not any((dataset.read_label(sample) != IGNORE_INDEX).any() for sample in samples):
        found = f"{split!r}, where no pixel of the {len(samples)} labels has a class, such as {samples[0].label}"
        raise DataError(field, found, "labels with classes", "restore the labels, or choose another split")
    return samples


def select_device(device: str = "") -> torch.device:
    """Return the device of that name; without a name a GPU if there is one."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def warn_if_slow(experiment: Experiment, device: torch.device) -> None:
    """Warn where a CPU has to imitate bfloat16."""
    if experiment.precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(
            "this CPU has no bfloat16 arithmetic and takes about twenty times as long to imitate it: "
            "set precision to float32, or use a GPU",
            stacklevel=3,
        )


def require_classes(experiment: Experiment, dataset: SegmentationDataset) -> None:
    """Raise DataError unless the network of an experiment predicts the classes of a dataset."""
    own = get_dataset(experiment.benchmark)
    if own.class_names != dataset.class_names:
        found, expected = (f"the {d.num_classes} classes of {d.name}" for d in (own, dataset))
        raise DataError("network", found, expected, "give another run_folder, or another dataset")


def weights_identity(source: str | Path, experiment: Experiment) -> dict[str, str]:
    """Return what predictions of a trained network depend on: hashes of its configuration and of its weights' file."""
    file = Path(source) / CHECKPOINT if Path(source).is_dir() else Path(source)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {"config_hash": experiment.config_hash, "weights": digest}


def load_trained(
    source: str | Path, experiment: Experiment | None = None, device: str | torch.device = "cpu"
) -> tuple[Experiment, OVeNet]:
    """Load a trained network in evaluation mode, and its experiment.

    Args:
        source: the folder of a finished run, or a file of weights, under our names or the official ones.
        experiment: of the weights in a file; a run folder has its own.

    Raises:
        RunError: no such file, no run folder, or a run without a checkpoint.
        ConfigError: a file without an experiment.
        WeightsError: weights that do not make up the experiment's network.
    """
    source = Path(source)
    if not source.exists():
        raise RunError(source, "nothing", "a run folder or a file of weights", "train first, or correct the path")
    if source.is_dir():
        source, experiment = require_checkpoint(source), run_experiment(source)
    elif experiment is None:
        raise ConfigError("experiment", None, f"the experiment of the weights in {source}", "give it as well")
    network = build_network(experiment, get_dataset(experiment.benchmark).num_classes)
    load_weights(network, read_state(source), source.name)
    return experiment, network.to(device, memory_format=_memory_format(experiment)).eval()


def require_checkpoint(run_folder: str | Path) -> Path:
    """Return the file of a run's trained weights; RunError if the run is not finished, or has lost them."""
    run_experiment(run_folder)
    if not (file := Path(run_folder, CHECKPOINT)).exists():
        raise RunError(file, "nothing", "the weights of a finished run", "finish that run, or give another folder")
    return file


def load_weights(network: OVeNet, state: dict[str, Tensor], source: str) -> None:
    """Load the weights of a whole network, under our names or the official ones.

    Raises:
        WeightsError: they are of another network, with the first difference, or a part is missing.
    """
    if is_ours(state):
        load_own(network, state, source)
    elif missing := load_official(network, state, source).initial:
        fix = "give a file of this network, or its experiment"
        raise WeightsError(source, f"no weights for {', '.join(missing)}", "the weights of a whole network", fix)


def load_initial_weights(
    network: OVeNet, experiment: Experiment, weights: str | Path | None, init_from: str | Path | None
) -> str:
    """Set the initial values that an experiment asks for besides random ones; return where they come from.

    Args:
        weights: file of `experiment.pretrained`.
        init_from: folder of the finished run of `experiment.init_from`.

    Raises:
        ConfigError: one that the experiment names is not given.
    """
    name, reports = experiment.pretrained, []
    if name:
        if weights is None or Path(weights).name != name:
            raise ConfigError("weights", weights, f"the path of {name}, which the experiment starts from", "give it")
        reports.append(str(load_official(network, read_state(weights), name, experiment.widen_pretrained)))
    if experiment.init_from:
        if init_from is None:
            expected = f"the folder of a finished run of {experiment.init_from}, which the experiment starts from"
            raise ConfigError("init_from", None, expected, "give it")
        reports.append(load_baseline(network, init_from))
    return "\n".join(reports) or "random"


def load_baseline(network: OVeNet, run_folder: str | Path) -> str:
    """Give a network the backbone and the semantic head of a trained one (Table 5, "Fr"); return what was loaded.

    Raises:
        RunError: the run is not finished, is of OVeNet, or has another backbone, width or number of classes.
    """
    file, experiment = require_checkpoint(run_folder), run_experiment(run_folder)
    state = {n: t for n, t in read_state(file).items() if n.split(".")[0] != "offset_head"}
    own = {n: t for n, t in network.state_dict().items() if n.split(".")[0] != "offset_head"}
    same = {n: t.shape for n, t in state.items()} == {n: t.shape for n, t in own.items()}
    if experiment.branch_stage is not None or not same:
        system = "OVeNet" if experiment.branch_stage is not None else "a baseline"
        found = f"{system} ({experiment.backbone}, width {experiment.width}) on {experiment.benchmark}"
        raise RunError(run_folder, found, "a baseline with this network's backbone and classes", "give its run folder")
    network.load_state_dict(state, strict=False)
    digest = weights_identity(run_folder, experiment)["weights"][:12]
    return f"backbone and semantic head from a run of configuration {experiment.config_hash}, weights {digest}"
