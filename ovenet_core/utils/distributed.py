"""One process or several, started by torchrun: which one this is, and operations over all of them.

Every operation also works in a single process, so no caller has to ask.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ovenet_core.utils.errors import ConfigError

TORCHRUN_REACTS = 3  # seconds: torchrun ends all processes within a few tenths after one has died
TORCHRUN_ENDS = 60
_alone = ContextVar("alone", default=False)


def rank() -> int:
    """Return the number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; yield the device of this one.

    If one process fails, the others wait for torchrun to end them, so the log shows the first error first. A machine
    with fewer GPUs than processes is a `ConfigError`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            found = f"at least {local_rank + 1} processes on a machine with {gpus} GPUs"
            raise ConfigError("nproc-per-node", found, f"at most {gpus}", "start one process for each GPU")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    # Attempts may share a store; one that starts again must not find the addresses of those that have died.
    store, this_rank, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=this_rank, world_size=size)
    try:
        yield device
    except Exception as error:
        _let_the_first_error_be_seen(error, store)
        raise
    finally:
        dist.destroy_process_group()


def _let_the_first_error_be_seen(error: Exception, store: dist.Store) -> None:
    """Wait for torchrun if this error may follow from the death of another process."""
    is_first = False
    with suppress(dist.DistError):  # the process that held the store has died
        is_first = store.add("failures", 1) == 1
    if not is_first:
        time.sleep(TORCHRUN_ENDS)
    elif type(error) is RuntimeError or isinstance(error, dist.DistError):  # torch's: a process may have been killed
        time.sleep(TORCHRUN_REACTS)


def barrier() -> None:
    """Wait until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


@contextmanager
def counted_alone() -> Iterator[None]:
    """Let `all_reduce_sum` and `all_smallest` see the values of this process only."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; without a gradient."""
    if not dist.is_initialized() or _alone.get():
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Copy the tensors of the first process into those of all."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def all_gather(value: Any) -> list:
    """Return the values of all processes, in the order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def all_smallest(values: Tensor, number: int) -> Tensor:
    """Return the `number` smallest values of all processes, or more, flat and in no order; `number` is equal in all."""
    values = values.flatten()
    if not dist.is_initialized() or _alone.get():
        return values
    smallest = values.topk(min(number, len(values)), largest=False, sorted=False).values
    padded = torch.nn.functional.pad(smallest, (0, number - len(smallest)), value=torch.inf)
    gathered = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(gathered, padded)
    return torch.cat(gathered)
