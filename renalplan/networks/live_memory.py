"""Bytes that a training step holds in tensors at its peak: counted while it runs.

On the device `meta` nothing is computed and nothing allocated, so a step of any network on any patch
is counted in a second: that is the estimate. On a real device the same count is a measurement. What
a library takes for itself (the CUDA context, workspaces of convolutions, free blocks that an allocator
keeps) is in neither.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from renalplan.networks.layout import to_channels_last

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], Tensor]
STEPS = 2  # an optimizer makes its state at the end of the first

# what CUDA's autocast computes in half, in single precision, and in the widest type it is given;
# https://docs.pytorch.org/docs/stable/amp.html, as far as networks here have it
IN_HALF = {"conv3d", "conv_transpose3d", "linear", "matmul", "bmm", "einsum"}
IN_SINGLE = {"group_norm", "layer_norm", "softmax", "log_softmax", "mse_loss", "pow", "norm", "sum"}
IN_WIDEST = {"cat", "stack"}


class LiveBytes(TorchDispatchMode):
    """Counts the memory of the tensors that live while the block runs, each storage once.

    Attributes:
        now: Bytes of those alive.
        peak: The most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, int] = {}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor that was there before."""
        if tensor.is_mkldnn:  # oneDNN's own layout has no storage to ask for
            owner: Any = tensor
            key, size = id(tensor), tensor.numel() * tensor.element_size()
        else:
            owner = tensor.untyped_storage()
            key, size = owner._cdata, owner.nbytes()
        if key in self._known:
            return
        self._known[key] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(owner, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._known.pop(key)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result


class HalfPrecision(TorchFunctionMode):
    """What CUDA's autocast does to the types of tensors, on any device.

    A parameter's copy in half precision is made once, as autocast's cache does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in IN_HALF:
            args, kwargs = tree_map(self._half, (args, kwargs))
        elif name in IN_SINGLE:
            args, kwargs = tree_map(_single, (args, kwargs))
        elif name in IN_WIDEST:
            given = [v for v in tree_leaves(args) if isinstance(v, Tensor)]
            if any(value.dtype == torch.float32 for value in given):
                args = tree_map(_single, args)
        return func(*args, **kwargs)

    def _half(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, nn.Parameter):
            return value.to(torch.bfloat16)
        if id(value) not in self._copies:
            self._copies[id(value)] = value.to(torch.bfloat16)
        return self._copies[id(value)]


class _Autocast(nn.Module):
    """A network in half precision that hands on single precision, as Fabric's does."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> Any:
        with HalfPrecision():
            result = self.network(*inputs)
        return tree_map(_single, result)


def step_bytes(
    build: Callable[[], nn.Module],
    batch: Batch,
    loss: Loss,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    *,
    half: bool,
    device: str = "meta",
) -> int:
    """Peak bytes of a training step: parameters, gradients, optimizer, what autograd keeps, the loss.

    Args:
        build: Makes the untrained network.
        batch: Tensors of a step; of these, on `meta`, only shapes and types matter.
        loss: Of a network and a batch.
        optimizer: Of a network.
        half: As a GPU trains by default, with half-precision activations; else in float32.
        device: `meta` estimates; `cpu` computes, and measures.
    """
    with torch.device(device):
        network = to_channels_last(build().train())
    called = _Autocast(network) if half else network
    trained = optimizer(network)
    live = LiveBytes()
    given = {name: values.to(device) for name, values in batch.items()}
    for tensor in (*network.parameters(), *network.buffers(), *given.values()):
        live.add(tensor)
    with live:
        for _ in range(STEPS):
            trained.zero_grad(set_to_none=True)
            value = loss(called, given)
            # a layer that is computed again for its gradient is computed as the first time
            with HalfPrecision() if half else nullcontext():
                value.backward()
            del value
            trained.step()
    return live.peak


def _single(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dtype == torch.bfloat16:
        return value.float()
    return value
