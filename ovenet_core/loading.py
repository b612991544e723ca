"""What the network is trained on, and in which order: augmented pictures and the batches of a run."""

import math
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

    Each epoch has a new order, and its incomplete batch is left out. However many processes there are, an iteration
    sees the same pictures: each process has a share of the batch, as equal as can be, in equally many parts of
    at most `micro_batch` pictures. `weights` says which part of the batch all processes together see at each step.

    Raises:
        ValueError: the pictures are fewer than one batch, or a process would have none at some step.
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
        shares = np.array_split(np.arange(batch_size), processes)
        most, fewest = len(shares[0]), len(shares[-1])
        self.steps = math.ceil(most / (micro_batch or most))
        if self.steps > fewest:
            raise ValueError(
                f"batch_size {batch_size} gives some of {processes} processes {fewest} pictures, which "
                f"cannot be shown in {self.steps} parts (micro_batch {micro_batch}): start fewer "
                "processes, or raise batch_size or micro_batch"
            )
        parts = [np.array_split(share, self.steps) for share in shares]
        self.parts = parts[rank]
        self.weights = [sum(map(len, together)) / batch_size for together in zip(*parts, strict=True)]
        self.pictures, self.batch_size, self.seed, self.start = pictures, batch_size, seed, start
        self.per_epoch = pictures // batch_size
        self.total = epochs * self.per_epoch

    def __len__(self) -> int:
        return (self.total - self.start) * self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.start, self.total):
            epoch, batch = divmod(iteration, self.per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.pictures)
            for part in self.parts:
                yield [(epoch, int(i)) for i in order[batch * self.batch_size + part]]
