"""Some slices of a volume that is resampled linearly, without making the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from renalplan.geometry import Shape
from renalplan.interpolation import source_positions


class Planes(Protocol):
    """A volume (channel, z, y, x) of which some slices are looked at, as a rule from first to last."""

    @property
    def depth(self) -> int:
        """Number of slices."""
        ...

    def planes(self, first: int, stop: int) -> torch.Tensor:
        """(channel, stop - first, y, x) float32."""
        ...


@dataclass(frozen=True)
class TensorPlanes:
    """`Planes` of a tensor (channel, z, y, x) of any floating type."""

    tensor: torch.Tensor

    @property
    def depth(self) -> int:
        """See `Planes`."""
        return self.tensor.shape[1]

    def planes(self, first: int, stop: int) -> torch.Tensor:
        """See `Planes`."""
        return self.tensor[:, first:stop].float()


def resample_planes(volume: Planes, rows: slice, shape: Shape) -> torch.Tensor:
    """Some slices of a linearly resampled volume, without making the rest.

    Args:
        volume: What to resample; only the slices around the wanted ones are asked for.
        rows: Which slices of the resampled volume's first axis.
        shape: The whole resampled spatial shape.

    Returns:
        (channel, rows, y, x) float32 of `shape`'s last two axes.
    """
    positions = source_positions(volume.depth, shape[0])[rows]
    lower = np.floor(positions).astype(int)
    upper = np.minimum(lower + 1, volume.depth - 1)
    first, last = int(lower[0]), int(upper[-1])
    needed = volume.planes(first, last + 1)
    share = torch.as_tensor(positions - lower, dtype=needed.dtype, device=needed.device)
    planes = torch.lerp(
        needed[:, torch.as_tensor(lower - first, device=needed.device)],
        needed[:, torch.as_tensor(upper - first, device=needed.device)],
        share[None, :, None, None],
    )
    if planes.shape[2:] == tuple(shape[1:]):
        return planes
    return torch.nn.functional.interpolate(
        planes, size=tuple(shape[1:]), mode="bilinear", align_corners=False
    )
