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
