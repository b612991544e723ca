"""One process or many, started by torchrun: who this one is, sums over all, and what each has found.

Everything here gives in one process what many would give together, so that no caller has to ask.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """The number of this process, from 0; the first one writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, if it did; gives the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    if device.type == "cuda":
        number, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= there:
            raise ValueError(f"process {number + 1} has no GPU, this machine has {there}: start as many processes")
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    # Attempts may share a store; one that starts again must not find the addresses of those that have died.
    store, number, size = next(dist.rendezvous("env://"))
    store = dist.PrefixStore(f"attempt{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=size)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def barrier() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; without a gradient."""
    if not dist.is_initialized():
        return value
    value = value.detach().clone()
    dist.all_reduce(value)
    return value


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Put what the first process has into the tensors of all."""
    if dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def all_gather(value: T) -> list[T]:
    """What each process has, in order of their ranks."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def global_smallest(values: Tensor, number: int) -> Tensor:
    """The `number` smallest values of all processes, or a few more, in no order; flat; `number` is the same for all."""
    values = values.flatten()
    if not dist.is_initialized():
        return values
    mine = values.topk(min(number, len(values)), largest=False, sorted=False).values
    padded = torch.nn.functional.pad(mine, (0, number - len(mine)), value=torch.inf)
    found = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(found, padded)
    return torch.cat(found)
