"""The coarse-to-fine phases, rules and segmenter with HU ranges in place of all five networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from renalplan.plan import NetworkSpec
from renalplan.trainers.coarse_to_fine import CoarseToFine
from renalplan.trainers.phase import FixedNetwork, NetworkPhase, Phase

# what each network takes for its structure, HU: the coarse one misses dim kidneys, the 3-D one faint
# tumors, and only the tumor networks take calcium for what they look for
BRIGHTEST = 1e4
RANGES = {
    "coarse": (180.0, 400.0),
    "correction": (100.0, 400.0),
    "fine": (100.0, 400.0),
    "tumor_3d": (270.0, BRIGHTEST),
    "tumor_2d": (225.0, BRIGHTEST),
}


class Band(nn.Module):
    """Two logits from the first channel: positive for the structure between two values."""

    limits: Tensor

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("limits", torch.tensor([low, high]))

    def forward(self, image: Tensor) -> Tensor:
        """(B, C, Z, Y, X) -> (B, 2, Z, Y, X)."""
        low, high = self.limits
        inside = torch.minimum(image[:, :1] - low, high - image[:, :1])
        return torch.cat([-inside, inside], 1)


class OracleCoarseToFine(CoarseToFine):
    """Needs a channel that is not normalised."""

    def phases(self) -> list[Phase]:
        """See `Trainer.phases`."""
        return [self._fixed(phase) for phase in super().phases()]

    @staticmethod
    def _fixed(phase: Phase) -> Phase:
        if not isinstance(phase, NetworkPhase):
            return phase
        low, high = RANGES[phase.name]
        arguments = {"low": low, "high": high}
        return FixedNetwork(
            phase.name, NetworkSpec(factory="oracle_coarse_to_fine:Band", arguments=arguments)
        )
