"""From an experiment to its parts: network, loss, images, optimizer, and the trainer that they are handed to."""

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
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
from ovenet_core.training.checkpoint import has_begun, trained_run, weights_identity
from ovenet_core.training.config import Experiment, autocast, select_device
from ovenet_core.training.trainer import Trainer
from ovenet_core.utils import ConfigError, DataError, RunError
from ovenet_core.weights import load_network, load_official, read_state

SLOW = "this CPU imitates bfloat16 and takes about twenty times as long: set precision to float32, or use a GPU"


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
    cache_folder: str | Path = "",
    network_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> Trainer:
    """Build the parts of a run and hand them to its trainer; a snapshot in `run_folder` is continued.

    Args:
        weights: file of `experiment.pretrained`; required if the experiment names one and the run has not begun.
        init_from: folder of the finished run of `experiment.init_from`; likewise.
        device: "cpu", "cuda", …; by default a GPU if there is one.
        cache_folder: for the decoded training images (`DecodedCache`), so no epoch decodes them again.
        network_options, options: further arguments of `build`; `snapshot_every` and `progress` of `Trainer`.

    Raises:
        SnapshotError: the folder holds another experiment, seed or images, or a damaged snapshot.
        ConfigError, DataError: class weights or initial weights that do not fit; a split without labels.
    """
    device, folder = select_device(device), Path(run_folder)
    if experiment.precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        warnings.warn(SLOW, stacklevel=2)
    dataset = get_dataset(experiment.benchmark)
    require_class_weights(experiment.class_weights, dataset.num_classes)
    loss = OVeNetLoss(experiment).to(device)
    splits = {"train": experiment.train_split, "val": experiment.val_split}
    samples = {name: labelled_samples(dataset, data_root, f"{name}_split", split) for name, split in splits.items()}
    loading = {"num_workers": workers, "pin_memory": device.type == "cuda"}
    loader = build_loader(experiment, dataset, samples["train"], seed, cache_folder, **loading)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = build_network(experiment, dataset.num_classes, **(network_options or {}))
    report = "" if has_begun(folder) else load_initial_weights(network, experiment, weights, init_from)
    network.to(device)
    if utils.world_size() > 1 and device.type == "cuda":  # there is none for CPUs
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    trained, rate = [p for p in network.parameters() if p.requires_grad], experiment.learning_rate
    optimizer = torch.optim.SGD(trained, rate, experiment.momentum, weight_decay=experiment.weight_decay)
    scheduler = PolynomialLR(optimizer, loader.batch_sampler.total, experiment.poly_power)
    score = partial(validate, experiment, dataset, samples["val"])
    parts = (network, loss, optimizer, scheduler, loader)
    return Trainer(experiment, seed, folder, *parts, score, samples, report, **options)


def build_network(experiment: Experiment, num_classes: int, **options: Any) -> OVeNet:
    """Build the experiment's network in its memory format, with initial values from torch's random state."""
    network = build(num_classes, experiment, checkpointing=experiment.checkpointing, **options)
    return network.to(memory_format=torch.channels_last) if experiment.channels_last else network


def build_loader(
    e: Experiment, dataset: SegmentationDataset, samples: list[Sample], seed: int, cache: str | Path, **options: Any
) -> DataLoader:
    """Build the loader of augmented images; its batch sampler gives this process its share of every batch.

    The first process decodes images that the cache lacks. `options` are those of `DataLoader`.
    """
    source, rank, processes = dataset, utils.rank(), utils.world_size()
    if cache:
        if rank > 0:
            utils.barrier()
        source = data.DecodedCache.build(dataset, samples, cache, progress=rank == 0)
        if rank == 0:
            utils.barrier()
    augmentation = {"crop": e.crop, "image_size": e.image_size, "scale_range": e.scale_range, "flip": e.flip}
    images = data.TrainingDataset(source, samples, seed, **augmentation)
    parts = {"rank": rank, "processes": processes, "micro_batch_size": e.micro_batch_size}
    batches = data.DistributedBatchSampler(len(samples), e.batch_size, e.epochs, seed, **parts)
    generator = torch.Generator()  # else it draws from torch's random state
    return DataLoader(images, batch_sampler=batches, generator=generator, **options)


def validate(
    e: Experiment, dataset: SegmentationDataset, samples: Sequence[Sample], network: OVeNet, show: Callable[[str], None]
) -> dict[str, Evaluation]:
    """Score a network's predictions (S_i, S_s, S_f), at the size of the labels; `show` how far it is."""
    utils.broadcast(network.buffers())  # of the running statistics, the first process's are kept
    counter, share = itertools.count(1), math.ceil(len(samples) / utils.world_size())

    def read(sample: Sample) -> dict[str, Tensor]:
        show(f"validating {next(counter)}/{share}")
        image = dataset.read_image(sample)
        return predict_classes(network, image, image_size=e.image_size, channels_last=e.channels_last)

    with autocast(e, next(network.parameters()).device):
        return evaluate(dataset, samples, read, boundaries=False, workers=1, progress=False)


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


def require_classes(experiment: Experiment, dataset: SegmentationDataset) -> None:
    """Raise DataError unless the network of an experiment predicts the classes of a dataset."""
    own = get_dataset(experiment.benchmark)
    if own.class_names != dataset.class_names:
        found, expected = (f"the {d.num_classes} classes of {d.name}" for d in (own, dataset))
        raise DataError("network", found, expected, "give another run_folder, or another dataset")


def load_trained(
    source: str | Path, experiment: Experiment | None = None, device: str | torch.device = "cpu"
) -> tuple[Experiment, OVeNet]:
    """Load a trained network in evaluation mode, and its experiment, which a file of weights does not have.

    `source` is the folder of a finished run, or a file of weights, under our names or the official ones.

    Raises:
        RunError, ConfigError, WeightsError: no finished run; no experiment; weights of another network.
    """
    source = Path(source)
    if not source.exists():
        raise RunError(source, "nothing", "a run folder or a file of weights", "train first, or correct the path")
    if source.is_dir():
        source, experiment = trained_run(source)
    elif experiment is None:
        raise ConfigError("experiment", None, f"the experiment of the weights in {source}", "give it as well")
    network = build_network(experiment, get_dataset(experiment.benchmark).num_classes)
    load_network(network, read_state(source), source.name)
    return experiment, network.to(device).eval()


def load_initial_weights(
    network: OVeNet, experiment: Experiment, weights: str | Path | None, init_from: str | Path | None
) -> str:
    """Set the initial values that an experiment asks for besides random ones; return where they come from.

    Raises:
        ConfigError: the file or the folder that the experiment names is not given.
        RunError: `init_from` is not finished, or is of OVeNet, or of another backbone, width or number of classes.
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
    """Give a network the backbone and the semantic head of a trained one (Table 5, "Fr"); return what was loaded."""
    file, e = trained_run(run_folder)
    state, own = read_state(file), network.state_dict()
    shapes = {name: tensor.shape for name, tensor in own.items() if not name.startswith("offset_head.")}
    if {name: tensor.shape for name, tensor in state.items()} != shapes:  # OVeNet has an offset head too many
        system = "a baseline" if e.branch_stage is None else "OVeNet"
        found = f"{system} ({e.backbone}, width {e.width}) on {e.benchmark}"
        raise RunError(run_folder, found, "a baseline with this network's backbone and classes", "give its run folder")
    network.load_state_dict(state, strict=False)
    digest = weights_identity(run_folder, e)["weights"][:12]
    return f"backbone and semantic head from a run of configuration {e.config_hash}, weights {digest}"
