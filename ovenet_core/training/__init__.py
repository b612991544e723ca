"""Owns the experiments, and the way from one of them to a trained network and the result of its run."""

from .checkpoint import weights_identity
from .config import Experiment, autocast, select_device
from .factory import build_network, create_trainer, inference_config, labelled_samples, load_trained, require_classes
from .launch import collect_overrides, create_preset_trainer, dataset_of, train_in_processes
from .presets import PRESETS, PROTOCOLS, STUDY, SYSTEMS, TABLE_5, VARIANTS, preset, source, sources
from .trainer import Trainer

# fmt: off
__all__ = [
    "PRESETS", "PROTOCOLS", "STUDY", "SYSTEMS", "TABLE_5", "VARIANTS", "Experiment", "Trainer", "autocast",
    "build_network", "collect_overrides", "create_preset_trainer", "create_trainer", "dataset_of",
    "inference_config", "labelled_samples", "load_trained", "preset", "require_classes", "select_device", "source",
    "sources",    "train_in_processes", "weights_identity",
]
# fmt: on
