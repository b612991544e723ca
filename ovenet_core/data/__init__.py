"""Datasets: what their files and labels mean, reading, checking, augmenting, caching.

This room owns every fact about a benchmark (one file each), the names of datasets, and the reading of their files.
"""

from .acdc import ACDC
from .ade20k import ADE20K
from .cache import DecodedCache
from .camvid import CAMVID
from .cityscapes import CITYSCAPES
from .dataset import Sample, SegmentationDataset, fingerprint, median_frequency_weights
from .io import NOT_AN_IMAGE, decode_ids, find, in_words, load, size, values
from .loader import DistributedBatchSampler, TrainingDataset
from .registry import DATASETS, get_dataset, open_dataset, register
from .synthetic.writer import draw_scene
from .transforms import in_proportion, resize_to
from .validation import Validation, validate

# fmt: off
__all__ = [
    "ACDC", "ADE20K", "CAMVID", "CITYSCAPES", "DATASETS", "NOT_AN_IMAGE", "DecodedCache",
    "DistributedBatchSampler", "Sample", "SegmentationDataset", "TrainingDataset", "Validation", "decode_ids",
    "draw_scene", "find", "fingerprint", "get_dataset", "in_proportion", "in_words", "load", "median_frequency_weights",
    "open_dataset", "register", "resize_to", "size", "validate", "values",
]
# fmt: on
