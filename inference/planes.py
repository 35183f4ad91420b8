"""A network's logits as slices: made while they are asked for, or kept.

Both hold what they give as float16, so that it makes no difference which of them a scan gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from renalplan.geometry import Shape
from renalplan.inference.scratch import Scratch, release

HALF_MOST = 65504.0  # float16 has no larger number


class StoredPlanes:
    """All of them, along the scan's axes.

    Args:
        parts: (outputs, n, y, x) float32 pieces that follow each other along the plan's first axis.
        outputs: How many there are.
        shape: Of all of them together, along the plan's axes.
        to_scan: For each of the scan's axes, which of the plan's it is.
        scratch: Where they are kept.
    """

    def __init__(
        self,
        parts: Iterator[Tensor],
        outputs: int,
        shape: Shape,
        to_scan: tuple[int, int, int],
        scratch: Scratch,
    ) -> None:
        array = scratch.zeros((outputs, *shape), np.float16)
        target = torch.from_numpy(array)
        done = 0
        for part in parts:
            target[:, done : done + part.shape[1]] = part.clamp(-HALF_MOST, HALF_MOST)
            done += part.shape[1]
            release(array)
        self._array = array
        self._view = target.permute(0, *(1 + axis for axis in to_scan))

    @property
    def shape(self) -> tuple[int, ...]:
        """(outputs, z, y, x) along the scan's axes."""
        return tuple(self._view.shape)

    @property
    def depth(self) -> int:
        """See `Planes`."""
        return self._view.shape[1]

    def planes(self, first: int, stop: int) -> Tensor:
        """See `Planes`."""
        found = self._view[:, first:stop].float()
        release(self._array)
        return found


class StreamedPlanes:
    """Those that are asked for and not yet passed; asking for passed ones computes anew.

    Args:
        start: Begins to compute pieces as `StoredPlanes` takes them, whose first axis is the scan's.
        depth: How many slices there are.
        to_scan: See `StoredPlanes`; the first stays first.
    """

    def __init__(
        self, start: Callable[[], Iterator[Tensor]], depth: int, to_scan: tuple[int, int, int]
    ) -> None:
        if to_scan[0] != 0:
            raise ValueError(
                f"the scan's first axis is the plan's axis {to_scan[0]}, not its first"
            )
        self._start = start
        self._depth = depth
        self._to_scan = to_scan
        self._parts: Iterator[Tensor] | None = None
        self._held: list[Tensor] = []  # single planes, float16
        self._first = 0  # of the held ones

    @property
    def depth(self) -> int:
        """See `Planes`."""
        return self._depth

    def planes(self, first: int, stop: int) -> Tensor:
        """See `Planes`."""
        if self._parts is None or first < self._first:
            self._parts, self._held, self._first = self._start(), [], 0
        while self._first + len(self._held) < stop:
            part = next(self._parts).permute(0, *(1 + axis for axis in self._to_scan))
            self._held.extend(part.clamp(-HALF_MOST, HALF_MOST).half().unbind(1))
            self._drop(first)
        self._drop(first)
        offset = first - self._first
        return torch.stack(self._held[offset : offset + stop - first], 1).float()

    def _drop(self, before: int) -> None:
        passed = min(before - self._first, len(self._held))
        if passed > 0:
            del self._held[:passed]
            self._first += passed
