"""PyTorch: every device, every network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from renalplan.inference.engines.engine import Engine
from renalplan.inference.engines.precision import torch_type
from renalplan.networks.layout import to_channels_last


class TorchEngine(Engine):
    """Runs a module, in half precision by autocasting.

    Args:
        network: In evaluation mode; its weights are laid out channels last and moved to the device.
        device: Where to compute.
        precision: fp32, bf16 or fp16.
    """

    def __init__(
        self, network: nn.Module, device: torch.device | None = None, precision: str = "fp32"
    ) -> None:
        self.device = device or torch.device("cpu")
        self._network = to_channels_last(network).to(self.device)
        self._type = torch_type(precision)

    @torch.inference_mode()
    def __call__(self, patches: Tensor) -> Tensor:
        """See `Engine`."""
        half = self._type != torch.float32
        with torch.autocast(self.device.type, dtype=self._type if half else None, enabled=half):
            logits: Tensor = self._network(patches)
        return logits.float()
