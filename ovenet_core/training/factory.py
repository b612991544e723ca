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
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, PolynomialLR, SequentialLR
from torch.utils.data import DataLoader

from ovenet_core import data, utils
from ovenet_core.cross_entropy import IGNORE_INDEX
from ovenet_core.data import Sample, SegmentationDataset, get_dataset
from ovenet_core.evaluation import MIN_WINDOW, Evaluation, InferenceConfig, evaluate, predict_classes
from ovenet_core.layers import OUTPUT_STRIDE
from ovenet_core.losses import OVeNetLoss
from ovenet_core.ovenet import OVeNet, build
from ovenet_core.training.checkpoint import has_begun, trained_run
from ovenet_core.training.config import Experiment, autocast, select_device
from ovenet_core.training.initial_values import initialise_as_authors, load_initial_weights
from ovenet_core.training.trainer import Trainer
from ovenet_core.utils import ConfigError, DataError, RunError, read_state
from ovenet_core.weights import load_network

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
    optimizer, scheduler = build_optimizer(experiment, network, loader.batch_sampler.total)
    score = partial(validate, experiment, dataset, samples["val"])
    loss = OVeNetLoss(experiment, dataset.num_classes).to(device)
    parts = (network, loss, optimizer, scheduler, loader)
    return Trainer(experiment, seed, folder, *parts, score, samples, report, **options)


def build_network(experiment: Experiment, num_classes: int, **options: Any) -> OVeNet:
    """Build the experiment's network in its memory format, with initial values from torch's random state."""
    computation = {"checkpointing": experiment.checkpointing, "channels_last": experiment.channels_last}
    network = build(num_classes, experiment, **computation, **options)
    if experiment.initial_values == "authors":
        initialise_as_authors(network)
    return network


def build_optimizer(e: Experiment, network: OVeNet, iterations: int) -> tuple[Optimizer, LRScheduler]:
    """Build SGD for what is trained, and the poly learning rate over the iterations of a run (section 4.1)."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, e.learning_rate, e.momentum, weight_decay=e.weight_decay)
    poly = PolynomialLR(optimizer, iterations, e.poly_power)
    return optimizer, SequentialLR(optimizer, [ConstantLR(optimizer, 1.0, 1), poly], [1]) if e.poly_delay else poly


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
    images = data.TrainingDataset(source, samples, seed, e)
    parts = {"rank": rank, "processes": processes, "micro_batch_size": e.micro_batch_size}
    batches = data.DistributedBatchSampler(len(samples), e.batch_size, e.epochs, seed, **parts)
    generator = torch.Generator()  # else it draws from torch's random state
    return DataLoader(images, batch_sampler=batches, generator=generator, **options)


def inference_config(
    experiment: Experiment, dataset: SegmentationDataset, window: Sequence[int] = (), **options: Any
) -> InferenceConfig:
    """Configure inference with windows of the size that networks are tested at; `options` are further fields.

    Without a `window` they have the experiment's test_size, its image_size if that is (height, width), the dataset's
    test size, or the size of the crop: the first that there is, with sides rounded up to what a window needs.
    """
    size = experiment.image_size if isinstance(experiment.image_size, tuple) else dataset.test_window
    size = experiment.test_size or size or experiment.crop
    sides = [max(-(-side // OUTPUT_STRIDE) * OUTPUT_STRIDE, MIN_WINDOW) for side in size]
    return InferenceConfig(window=window or sides, **options)


def validate(
    e: Experiment, dataset: SegmentationDataset, samples: Sequence[Sample], network: OVeNet, show: Callable[[str], None]
) -> dict[str, Evaluation]:
    """Score a network's predictions (S_i, S_s, S_f), at the size of the labels; `show` how far it is."""
    utils.broadcast(network.buffers())  # of the running statistics, the first process's are kept
    counter, share = itertools.count(1), math.ceil(len(samples) / utils.world_size())
    inference = inference_config(e, dataset)

    def read(sample: Sample) -> dict[str, Tensor]:
        show(f"validating {next(counter)}/{share}")
        image = dataset.read_image(sample)
        return predict_classes(network, image, inference, image_size=e.image_size)

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
