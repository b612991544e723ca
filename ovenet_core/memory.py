"""Memory techniques: recomputed activations, float32 regions, and gradients computed in the forward pass.

None of them changes a loss, a gradient or a batch-norm statistic.
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(network: nn.Module, methods: Mapping[type[nn.Module], str]) -> None:
    """Make methods of modules compute their activations again in the backward pass instead of keeping them.

    Args:
        methods: the name of the method by the class of the module, such as {HighResolutionModule: "forward"}.
    """
    for module in network.modules():
        if name := methods.get(type(module)):
            setattr(module, name, partial(_recompute, module, getattr(module, name)))


def _recompute(module: nn.Module, method: Callable, *inputs: Any) -> Any:
    """Return `method(*inputs)`, which is called again in the backward pass of the result."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # the compiler itself decides what to keep
        return method(*inputs)
    return checkpoint(
        method,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,  # nothing random is inside
        context_fn=lambda: (contextlib.nullcontext(), FrozenBatchNormStats(module)),
    )


class FrozenBatchNormStats:
    """A context in which a module's running batch-norm statistics stand still; each backward pass enters it again."""

    def __init__(self, module: nn.Module):
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def __enter__(self) -> None:
        # A momentum of 0 keeps the averages. SyncBatchNorm needs a counter, so a temporary one counts meanwhile.
        self.kept = [(m, m.momentum, m.num_batches_tracked) for m in self.norms]
        counter = torch.zeros_like(self.norms[0].num_batches_tracked) if self.norms else None
        for m in self.norms:
            m.momentum, m.num_batches_tracked = 0.0, counter

    def __exit__(self, *_) -> None:
        for m, momentum, count in self.kept:
            m.momentum, m.num_batches_tracked = momentum, count


def float32_region(device: torch.device) -> contextlib.AbstractContextManager:
    """Switch autocast off inside; devices that have no autocast (meta) need nothing."""
    if device.type == "meta":  # torch.amp.is_autocast_available would split what is compiled
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def backward_in_forward(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """Return `loss(logits)` and compute its gradient in the same pass, so that nothing full-size is kept for later."""
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
