"""How a network's numbers lie in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def to_channels_last(network: nn.Module) -> nn.Module:
    """Lay a 3-D network's weights out channels last; its maps follow.

    About twice as fast on CPUs, and what tensor cores want on GPUs.
    """
    module: Any = network  # PyTorch's stubs do not know the argument
    result: nn.Module = module.to(memory_format=torch.channels_last_3d)
    return result
