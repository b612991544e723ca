"""Datasets: what their files and labels mean, reading, checking, augmenting, caching.

This room owns every fact about a benchmark (one file each), the names of datasets, and the reading of their files.
"""

from ovenet_core.data.acdc import ACDC
from ovenet_core.data.ade20k import ADE20K
from ovenet_core.data.cache import DecodedCache
from ovenet_core.data.camvid import CAMVID
from ovenet_core.data.cityscapes import CITYSCAPES
from ovenet_core.data.dataset import Sample, SegmentationDataset, fingerprint, median_frequency_weights
from ovenet_core.data.io import NOT_AN_IMAGE, decode_ids, find, in_words, load, size, values
from ovenet_core.data.loader import DistributedBatchSampler, TrainingDataset
from ovenet_core.data.registry import DATASETS, get_dataset, open_dataset, register
from ovenet_core.data.synthetic.writer import draw_scene
from ovenet_core.data.transforms import resize_to
from ovenet_core.data.validation import Validation, validate
from ovenet_core.utils import DataError

# fmt: off
__all__ = [
    "ACDC", "ADE20K", "CAMVID", "CITYSCAPES", "DATASETS", "NOT_AN_IMAGE", "DataError", "DecodedCache",
    "DistributedBatchSampler", "Sample", "SegmentationDataset", "TrainingDataset", "Validation", "decode_ids",
    "draw_scene", "find", "fingerprint", "get_dataset", "in_words", "load", "median_frequency_weights",
    "open_dataset", "register", "resize_to", "size", "validate", "values",
]
# fmt: on
