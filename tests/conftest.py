"""Shapes are checked at run time under pytest, and only there: the package is imported after this hook is set."""

import importlib
import os
import tempfile
from pathlib import Path

import forked_kernels
import pytest
from jaxtyping import install_import_hook

hook = install_import_hook("ovenet_core", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of material that the project may use but does not contain; tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared beside the repository (golden data, datasets, weights)")
    return SHARED


@pytest.fixture(scope="module")
def network():
    """A small whole OVeNet whose logits differ between classes and pixels."""
    import numpy as np
    import torch
    from torch import nn

    from ovenet_core.evaluation.inference import predict_classes
    from ovenet_core.ovenet import build

    torch.manual_seed(0)
    made = build(width=8, blocks=1, align_corners=True)
    for module in made.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        made.train()(torch.randn(2, 3, 64, 96))  # running statistics, so that values stay in range
        logits = made.eval()(torch.randn(1, 3, 64, 96)).initial.main
    output = made.semantic_head.classifier.output
    output.weight.data /= logits.std()
    output.bias.data = -logits.mean((0, 2, 3)) / logits.std()  # no class is ahead everywhere
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    assert len(predict_classes(made, image)["S_f"].unique()) > 3
    return made


def pytest_configure(config: pytest.Config) -> None:
    """Kernels start in a second: all processes of this run take theirs from one that has imported what is large."""
    config.option.nbval_current_env, config.option.nbval_kernel_name = False, "python3"
    if not hasattr(config, "workerinput"):  # not one of several processes, but the one that starts them
        folder = tempfile.TemporaryDirectory(prefix="kernels")
        kernels = forked_kernels.install(Path(folder.name))
        config.add_cleanup(folder.cleanup)
        config.add_cleanup(kernels.kill)


def pytest_collection(session: pytest.Session) -> None:
    """Import what is large before the tests do: a module with checked shapes finds no byte code of what it imports."""
    option = session.config.option
    if not option.collectonly and (hasattr(session.config, "workerinput") or not option.numprocesses):
        for name in forked_kernels.LARGE:
            importlib.import_module(name)


def pytest_xdist_auto_num_workers() -> int:
    """Two processes more than there are cores, up to four: many tests wait for other processes."""
    return min(4, (os.cpu_count() or 1) + 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files whose tests take minutes go first, so that no process ends with one of them alone."""
    long = (
        "test_whole_study.py",
        "00_quickstart.ipynb",
        "test_distributed.py",
        "test_end_to_end.py",
        "test_grid.py",
        "test_trainer.py",
        "test_golden.py",
        "test_synthetic.py",
        "test_ovenet.py",
        "test_inference.py",
    )
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))
