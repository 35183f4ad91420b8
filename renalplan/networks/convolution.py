"""A 3-D convolution without PyTorch's two slow cases on a CPU.

PyTorch (2.13) sends a float32 convolution on a CPU to oneDNN only if the batch holds more than one
patch, or if channels * z * y exceed 20480; a single smaller patch goes through its own
matrix multiplication of unfolded maps, some five times slower forward and backward. A batch of one
is what several papers train with, and what a sliding window predicts with. `Conv3d` asks oneDNN in
that case too. And a 1x1x1 convolution of channels-last maps is a matrix multiplication as they lie;
PyTorch unfolds them all the same, or reorders them, which takes three to five times as long.
Everything else about `Conv3d` is `nn.Conv3d`, its parameters' names included.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ONEDNN_FROM = 20480  # above this, PyTorch takes oneDNN of its own accord


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`: (B, C, Z, Y, X) -> (B, C', Z', Y', X'); see above for what differs."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not self._plain(input):
            return super()._conv_forward(input, weight, bias)
        if self._is_matrix(input):
            last = input.movedim(1, -1)
            return F.linear(last, weight.flatten(1), bias).movedim(-1, 1)
        if not self._left_out(input):
            return super()._conv_forward(input, weight, bias)
        where = (self.stride, self.padding, self.dilation, self.groups)
        if torch.is_grad_enabled():
            return _OneDnnConvolution.apply(input, weight, bias, *where)
        return _convolve(input, weight, bias, *where)

    def _plain(self, x: Tensor) -> bool:
        """Whether this is a float32 convolution on a CPU that nobody records or rewrites."""
        return bool(
            # exporters and compilers know the usual convolution only
            not torch.jit.is_tracing()  # type: ignore[attr-defined]
            and not torch.compiler.is_compiling()
            and x.device.type == "cpu"
            and x.dim() == 5
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.mkldnn.is_available()
            and torch.backends.mkldnn.enabled
        )

    def _is_matrix(self, x: Tensor) -> bool:
        """Whether it multiplies every voxel's channels by one matrix, where they lie."""
        return (
            self.kernel_size == self.stride == (1, 1, 1)
            and self.groups == 1
            and self.padding in ((0, 0, 0), 0, "valid")
            and x.is_contiguous(memory_format=torch.channels_last_3d)
        )

    def _left_out(self, x: Tensor) -> bool:
        """Whether PyTorch would not take oneDNN though it could."""
        return (
            x.shape[0] == 1
            and x.shape[1] * x.shape[2] * x.shape[3] <= ONEDNN_FROM
            and max(self.kernel_size) > 1
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, *where: Any) -> Tensor:
    stride, padding, dilation, groups = where
    result: Tensor = torch.ops.aten.mkldnn_convolution(
        x, weight, bias, padding, stride, dilation, groups
    )
    return result


class _OneDnnConvolution(torch.autograd.Function):
    """oneDNN in both directions: the operator's own gradient falls back to the slow way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *where: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.where = bias is not None, where
        return _convolve(x, weight, bias, *where)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.where
        needed = [*ctx.needs_input_grad[:2], ctx.has_bias and ctx.needs_input_grad[2]]
        # tensors in oneDNN's own layout are what makes PyTorch choose it here
        found = torch.ops.aten.convolution_backward(
            gradient.to_mkldnn(),
            x.to_mkldnn(),
            weight,
            [weight.shape[0]] if ctx.has_bias else None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            needed,
        )
        return (*(_dense(part) for part in found), None, None, None, None)


def _dense(gradient: Tensor | None) -> Tensor | None:
    if gradient is None or not gradient.is_mkldnn:
        return gradient
    return gradient.to_dense()
