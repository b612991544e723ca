"""Owns the experiments, and the way from one of them to a trained network and the result of its run."""

from ovenet_core.training.checkpoint import weights_identity
from ovenet_core.training.config import Experiment, autocast, select_device
from ovenet_core.training.factory import build_network, create_trainer, labelled_samples, load_trained, require_classes
from ovenet_core.training.launch import collect_overrides, create_preset_trainer, dataset_of, train_in_processes
from ovenet_core.training.presets import PRESETS, PROTOCOLS, SYSTEMS, TABLE_5, VARIANTS, preset, source
from ovenet_core.training.trainer import Trainer

# fmt: off
__all__ = [
    "PRESETS", "PROTOCOLS", "SYSTEMS", "TABLE_5", "VARIANTS", "Experiment", "Trainer", "autocast", "build_network",
    "collect_overrides", "create_preset_trainer", "create_trainer", "dataset_of", "labelled_samples", "load_trained",
    "preset", "require_classes", "select_device", "source", "train_in_processes", "weights_identity",
]
# fmt: on
