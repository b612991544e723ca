"""Shapes are checked at run time under pytest, and only there."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

hook = install_import_hook("ovenet_core", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

SHARED = Path(__file__).parents[1] / ".." / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of material that the project may use but does not contain; tests skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared beside the repository (golden data, data sets, weights)")
    return SHARED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files whose tests take minutes go first, so that no process ends with one of them alone."""
    long = ("test_whole_study.py", "test_end_to_end.py", "test_grid.py", "test_processes.py", "00_quickstart.ipynb",
            "03_ablations.ipynb")
    items.sort(key=lambda item: item.path.name not in long)
