"""Datasets: what their files and labels mean, reading, checking, augmenting, caching."""

from ovenet_core.data import io
from ovenet_core.data.cache import DecodedCache
from ovenet_core.data.dataset import CITYSCAPES, Sample, SegmentationDataset, fingerprint, get_dataset
from ovenet_core.data.inspection import CAMERA_SIZES
from ovenet_core.data.io import NOT_AN_IMAGE, DataError, decode_ids, find, in_words, load, size, values
from ovenet_core.data.loader import DistributedBatchSampler, TrainingDataset
from ovenet_core.data.synthetic.writer import draw_scene, open_dataset
from ovenet_core.data.validation import examine

__all__ = [
    "CAMERA_SIZES",
    "CITYSCAPES",
    "NOT_AN_IMAGE",
    "DataError",
    "DecodedCache",
    "DistributedBatchSampler",
    "Sample",
    "SegmentationDataset",
    "TrainingDataset",
    "decode_ids",
    "draw_scene",
    "examine",
    "find",
    "fingerprint",
    "get_dataset",
    "in_words",
    "io",
    "load",
    "open_dataset",
    "size",
    "values",
]
