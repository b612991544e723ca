"""Memory."""

import contextlib
from collections.abc import Callable

import torch
import torch.utils.checkpoint
from torch import Tensor, nn


def run_in_float32(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)` in float32 (float64 stays float64), whatever the autocast."""
    with float32_region(x.device):
        return layer(x.to(torch.promote_types(x.dtype, torch.float32)))


def float32_region(device: torch.device) -> contextlib.AbstractContextManager:
    """No autocast inside; nothing to do on devices that have none (meta)."""
    if device.type == "meta":  # torch.amp.is_autocast_available would split what is compiled
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def recompute(function: Callable, *inputs: Tensor, norms_of: nn.Module | None = None):
    """`function(*inputs)` whose activations are computed again in the backward pass instead of being kept.

    Running batch-norm statistics see each batch once: those in `norms_of` (by default the function itself) stand still
    while the pass is repeated.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # the compiler itself decides what to keep
        return function(*inputs)
    modules = (function if norms_of is None else norms_of).modules()
    norms = [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return torch.utils.checkpoint.checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing random is inside
        context_fn=lambda: (contextlib.nullcontext(), FrozenBatchNormStats(norms)),
    )


class FrozenBatchNormStats:
    """A context in which running batch-norm statistics stand still; entered anew by each backward pass."""

    def __init__(self, norms: list[nn.Module]):
        self.norms = norms

    def __enter__(self) -> None:
        # A momentum of 0 keeps the averages; what is counted meanwhile is thrown away. (SyncBatchNorm wants a counter.)
        self.kept = [(m, m.momentum, m.num_batches_tracked) for m in self.norms]
        scrap = torch.zeros_like(self.norms[0].num_batches_tracked) if self.norms else None
        for m in self.norms:
            m.momentum, m.num_batches_tracked = 0.0, scrap

    def __exit__(self, *_) -> None:
        for m, momentum, count in self.kept:
            m.momentum, m.num_batches_tracked = momentum, count


def backward_in_forward(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """`loss(logits)`, whose gradient is computed in the forward pass so that nothing full-size is kept for later."""
    return _BackwardInForward.apply(logits, loss)


class _BackwardInForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, loss):
        if not ctx.needs_input_grad[0]:
            return loss(logits)
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_()
            value = loss(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        ctx.save_for_backward(gradient)
        return value.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None
