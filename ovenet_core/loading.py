"""What the network is trained on, and in which order: augmented pictures and the batches of a run."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ovenet_core.augment import generator, random_crop
from ovenet_core.benchmarks import IGNORE, Benchmark, Sample
from ovenet_core.cache import DecodedCache
from ovenet_core.experiments import Experiment


class TrainingPictures(Dataset):
    """Augmented (image, label, name) by (epoch, index): the same pair whatever the worker that makes it.

    `source` reads the samples: the benchmark itself, or a cache of its decoded pictures.
    """

    def __init__(self, source: Benchmark | DecodedCache, samples: list[Sample], experiment: Experiment, seed: int):
        self.source, self.samples, self.experiment, self.seed = source, samples, experiment, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        """uint8 image [3, height, width], uint8 label [height, width], name."""
        epoch, index = key
        image, label = self.source.read(self.samples[index])
        if self.experiment.picture_size is not None:
            height, width = self.experiment.picture_size
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        image, label = random_crop(
            image,
            label,
            crop=self.experiment.crop,
            scale=self.experiment.scale,
            flip=self.experiment.flip,
            rng=generator(self.seed, epoch, index),
            ignore_label=IGNORE,
        )
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels, torch.from_numpy(np.ascontiguousarray(label)), self.samples[index].name


class Batches:
    """What one process is shown from iteration `start` on: lists of (epoch, index), `steps` of them per iteration.

    Each epoch has a new order, and its incomplete batch is left out. Processes have equal shares of each batch, in
    parts of `micro_batch` pictures: however many there are, an iteration sees the same pictures.

    Raises:
        ValueError: the batch cannot be divided so, or the pictures are fewer than one batch.
    """

    def __init__(
        self,
        pictures: int,
        batch_size: int,
        epochs: int,
        seed: int,
        *,
        rank: int = 0,
        processes: int = 1,
        micro_batch: int | None = None,
        start: int = 0,
    ):
        if pictures < batch_size:
            raise ValueError(f"{pictures} training pictures are fewer than one batch of {batch_size}: lower batch_size")
        if batch_size % processes:
            raise ValueError(f"batch_size {batch_size} cannot be divided among {processes} processes: choose others")
        self.share = batch_size // processes
        self.micro_batch = micro_batch or self.share
        if self.share % self.micro_batch:
            raise ValueError(f"micro_batch {micro_batch} does not divide the {self.share} pictures that each of "
                             f"{processes} processes has of a batch of {batch_size}: choose a divisor")
        self.pictures, self.batch_size, self.seed, self.rank, self.start = pictures, batch_size, seed, rank, start
        self.steps = self.share // self.micro_batch
        self.per_epoch = pictures // batch_size
        self.total = epochs * self.per_epoch

    def __len__(self) -> int:
        return (self.total - self.start) * self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.start, self.total):
            epoch, batch = divmod(iteration, self.per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
            first = batch * self.batch_size + self.rank * self.share
            for begin in range(first, first + self.share, self.micro_batch):
                yield [(epoch, int(i)) for i in order[begin : begin + self.micro_batch]]
