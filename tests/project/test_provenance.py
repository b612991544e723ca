"""Provenance: the commit that a result names, and whether the code has changed since."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import ovenet_core


def test_a_change_anywhere_in_the_package_marks_the_commit(tmp_path):
    package = tmp_path / "ovenet_core"
    (package / "utils").mkdir(parents=True)
    copied = shutil.copy(Path(ovenet_core.__file__).with_name("utils") / "provenance.py", package / "utils")
    (package / "fusion.py").write_text("a = 1\n")
    (tmp_path / ".gitignore").write_text("__pycache__/\n")  # as here: byte code is no change
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    spec = importlib.util.spec_from_file_location("copied", copied)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    head = subprocess.run([*git, "rev-parse", "HEAD"], cwd=tmp_path, capture_output=True, text=True).stdout.strip()
    assert module.commit() == head
    (package / "fusion.py").write_text("a = 2\n")
    assert module.commit() == head + "+"
