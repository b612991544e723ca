"""What the network is trained on, and in which order: augmented images and the batches of a run."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ovenet_core.data.cache import DecodedCache
from ovenet_core.data.dataset import Sample, SegmentationDataset
from ovenet_core.data.transforms import Augmentation, augment, draw_augmentation, resize_to, sample_rng
from ovenet_core.utils import ConfigError


@dataclass(frozen=True, eq=False)
class TrainingDataset(Dataset):
    """Augmented (image, label, name) by (epoch, index): the same pair whatever the worker that makes it."""

    source: SegmentationDataset | DecodedCache  # reads the samples
    samples: Sequence[Sample]
    seed: int  # of the run, from which the augmentation of each image follows
    augmentation: Augmentation

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        """uint8 image [3, height, width], uint8 label [height, width], name."""
        epoch, index = key
        image, label = self.source.read(self.samples[index])
        image, label = (resize_to(self.augmentation.image_size, pixels) for pixels in (image, label))
        draws = draw_augmentation(self.augmentation, sample_rng(self.seed, epoch, index))
        image, label = augment(image, label, self.augmentation, draws)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        return pixels, torch.from_numpy(np.ascontiguousarray(label)), self.samples[index].name


@dataclass(eq=False)
class DistributedBatchSampler:
    """What one process is shown from iteration `start` on: `accumulation_steps` lists of (epoch, index) per iteration.

    Each epoch has a new order, and its incomplete batch is left out. However many processes there are, an iteration
    sees the same images: each process has a share of the batch, as equal as can be, in equally many parts of
    at most `micro_batch_size` images. `weights` says which part of the batch all processes together see at each step.
    `ConfigError` if the images are fewer than one batch, or a process would have none at some step.
    """

    images: int
    batch_size: int
    epochs: int
    seed: int
    _: KW_ONLY
    rank: int = 0
    processes: int = 1
    micro_batch_size: int | None = None
    start: int = 0

    def __post_init__(self):
        batch, images = self.batch_size, self.images
        if images < batch:
            raise ConfigError("batch_size", f"{images} training images", f"{batch} or more", "lower batch_size")
        shares = np.array_split(np.arange(batch), self.processes)
        most, fewest = len(shares[0]), len(shares[-1])
        self.accumulation_steps = math.ceil(most / (self.micro_batch_size or most))
        if self.accumulation_steps > fewest:
            found = f"{batch}, which gives some of {self.processes} processes {fewest} images"
            expected = f"enough for {self.accumulation_steps} parts (micro_batch_size {self.micro_batch_size}) for each"
            raise ConfigError("batch_size", found, expected, "start fewer processes, or raise one of these sizes")
        parts = [np.array_split(share, self.accumulation_steps) for share in shares]
        self.parts = parts[self.rank]
        self.weights = [sum(map(len, together)) / batch for together in zip(*parts, strict=True)]
        self.per_epoch, self.total = images // batch, self.epochs * (images // batch)

    def __len__(self) -> int:
        return (self.total - self.start) * self.accumulation_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for iteration in range(self.start, self.total):
            epoch, batch = divmod(iteration, self.per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
            for part in self.parts:
                yield [(epoch, int(i)) for i in order[batch * self.batch_size + part]]
