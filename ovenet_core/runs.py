"""The files of a run: written whole or not at all, with what is needed to trace a number to its origin."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError

PATIENCE = 10  # seconds: the workers of a killed process end, and leave its lock, some five seconds after it


class WriteError(OSError):
    """A file of a run could not be written; the message says which, why and what to do, `errno` is the system's."""

    def __init__(self, path: Path, error: Exception):
        super().__init__(
            f"{path} could not be written ({error}). What was there before is kept: make room on the disk "
            "or the folder writable, and start again"
        )
        self.errno = getattr(error, "errno", None)


def write_atomically(path: Path, write: Callable, mode: str = "w") -> None:
    """Call `write(file)` on a temporary file beside `path`, then put it in its place.

    Raises:
        WriteError: it could not be written; what was at `path` before is still there.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, mode) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two are torch's and safetensors' own
        raise WriteError(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """While this process has a folder to itself; the lock goes with the process, however that ends.

    Raises:
        RuntimeError: another process has it, and has not left it after `PATIENCE` seconds.
        WriteError: the lock cannot be written.
    """
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=PATIENCE)
    except Timeout as error:
        raise RuntimeError(
            f"{folder} is in use, another process trains there: wait until it has ended, or choose another run folder"
        ) from error
    except OSError as error:
        raise WriteError(folder / ".lock", error) from error
    with lock:
        yield


def remove_unfinished(folder: Path) -> None:
    """Remove what interrupted writes have left."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_atomically(path, lambda f: json.dump(value, f, indent=1, allow_nan=False))


def short_hash(value: Any) -> str:
    """Twelve hexadecimal digits that differ whenever a value, of what JSON can hold, does."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Of Python and the packages that numbers depend on."""
    packages = {"torch": torch.__version__, "torchvision": version("torchvision"), "numpy": np.__version__}
    return {"python": platform.python_version()} | packages | {"opencv": cv2.__version__}


def hardware(device: torch.device) -> str:
    """The device, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


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
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
    }


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
