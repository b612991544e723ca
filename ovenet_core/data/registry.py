"""The one place that resolves names of datasets: benchmarks, generated scenes, and datasets of one's own."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from ovenet_core.data.acdc import ACDC
from ovenet_core.data.ade20k import ADE20K
from ovenet_core.data.camvid import CAMVID
from ovenet_core.data.cityscapes import CITYSCAPES
from ovenet_core.data.dataset import SegmentationDataset
from ovenet_core.data.io import find
from ovenet_core.data.synthetic.writer import SYNTHETIC, open_scenes
from ovenet_core.utils import DataError, right_name

DATASETS = {dataset.name: dataset for dataset in (CITYSCAPES, ACDC, ADE20K, CAMVID)}
_BENCHMARKS = tuple(DATASETS)


def register(dataset: SegmentationDataset) -> SegmentationDataset:
    """Make a dataset known by its name, in place of one of that name; `DataError` if that is a benchmark's."""
    if dataset.name in _BENCHMARKS and DATASETS[dataset.name] is not dataset:
        raise DataError("dataset", repr(dataset.name), "a name that no benchmark has", "give it another name")
    DATASETS[dataset.name] = dataset
    return dataset


def get_dataset(name: str) -> SegmentationDataset:
    """Return the dataset of a name, or the one that a Python file defines; `DataError` if there is none or several."""
    if name.endswith(".py"):
        return _from_file(Path(name).resolve())
    if name not in DATASETS:
        expected = right_name(name.lower(), [*SYNTHETIC, *DATASETS])
        raise DataError("dataset", repr(name), expected, "correct it, or give a Python file's path")
    return DATASETS[name]


def open_dataset(
    name: str, data_root: str | Path = "", places: Sequence[str | Path] = ()
) -> tuple[SegmentationDataset, Path]:
    """Return the dataset of a name, and the folder with its images.

    Args:
        name: of a dataset; the path of a Python file that defines one; or synthetic/cityscapes, synthetic/acdc or
            synthetic/ade20k, to draw scenes in the format of a benchmark.
        data_root: the folder with the images, or for the scenes, where a set that was drawn before is taken as it is.
            If empty, the dataset's name in the first of `places` that has it; scenes go to their name in the first.
    """
    if name in SYNTHETIC:
        if not data_root and not places:
            raise DataError("data_root", "no folder", f"one to draw {name} into", "give data_root")
        return DATASETS[SYNTHETIC[name]], open_scenes(data_root or Path(places[0]) / name, SYNTHETIC[name])
    dataset = get_dataset(name)
    if data_root and not Path(data_root).is_dir():
        raise DataError(data_root, "no such folder", f"the images of {dataset.name}", "correct data_root")
    return dataset, Path(data_root) if data_root else find(dataset.name, *places)


def _from_file(path: Path) -> SegmentationDataset:
    """Import a file as a module that other processes find too, and register the dataset that it defines."""
    if not path.is_file():
        raise DataError(path, "no such file", "a Python file that defines a dataset", "correct the path")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    module = importlib.import_module(path.stem)
    if Path(getattr(module, "__file__", None) or "").resolve() != path:
        raise DataError(path, f"the name of another module, {path.stem}", "one of its own", "rename the file")
    defined = {id(v): v for v in vars(module).values() if isinstance(v, SegmentationDataset)}
    own = [dataset for dataset in defined.values() if dataset.name not in _BENCHMARKS]
    if len(own) != 1:
        raise DataError(path, f"{len(own)} datasets", "one", "define one SegmentationDataset with a name of its own")
    return register(own[0])
