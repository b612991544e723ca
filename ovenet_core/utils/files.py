"""The files of a run: written whole or not at all, with what is needed to trace a number to its origin."""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ovenet_core.utils.errors import RunError, WriteError

LOCK_TIMEOUT = 10  # seconds: the workers of a killed process end, and leave its lock, some five seconds after it
ROOM = "make room on the disk or the folder writable, and start again; what was there before is kept"


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
        raise WriteError(path, error, "a file that can be written", ROOM) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def run_folder_lock(folder: Path) -> Iterator[None]:
    """While this process has a folder to itself; the lock goes with the process, however that ends.

    Raises:
        RunError: another process has it, and has not left it after `LOCK_TIMEOUT` seconds.
        WriteError: the lock cannot be written.
    """
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        fix = "wait until it has ended, or choose another run folder"
        raise RunError(folder, "another process, which trains there", "a folder to itself", fix) from error
    except OSError as error:
        raise WriteError(folder / ".lock", error, "a file that can be written", ROOM) from error
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
