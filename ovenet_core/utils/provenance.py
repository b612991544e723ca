"""Where numbers come from, and the memory they took."""

import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch


def peak_memory(device: torch.device) -> float:
    """The most memory in use so far, in GiB: of the GPU, as torch counts it, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # there bytes, on Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def commit() -> str:
    """The commit of this code, with `+` if it was changed since; "unknown" outside of git."""
    try:
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance(device: torch.device) -> dict[str, Any]:
    """Where numbers come from: when they were finished (now), from which code, with which versions, on what."""
    packages = {"torch": torch.__version__, "torchvision": version("torchvision"), "numpy": np.__version__}
    cpu = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | packages | {"opencv": cv2.__version__},
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
    }


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    ).stdout.strip()
