"""A slab of fine samples that organs are painted on, and what of it belongs to which structure.

Painting is "over": a structure covers what lies below it by its coverage. The canvas knows
coordinates and HU only; which structures exist and in which order they come, the painters decide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.shapes import Floats, Tubes, coverage, open_axes, tube_distance
from renalplan.phantom.tissue import Values

Window = tuple[slice, slice, slice]


class Canvas:
    """HU images of one slab, one per phase, plus coverage maps of tracked structures.

    Attributes:
        z, y, x: Patient coordinates of the samples, mm; y runs to the back, x to the left.
        spacing: Distance of the samples (z, y, x), mm.
        width_mm: Edge length used for coverage.
        hu: Phase -> (Z, Y, X) float32.
        tracked: Structure -> (Z, Y, X) float32 coverage in [0, 1].
    """

    def __init__(
        self,
        z: NDArray,
        y: NDArray,
        x: NDArray,
        spacing: tuple[float, float, float],
        values: Values,
        phases: tuple[str, ...],
    ) -> None:
        self.z, self.y, self.x = z, y, x
        self.spacing = spacing
        self.width_mm = float(np.mean(spacing))
        self.values = values
        self.shape = (len(z), len(y), len(x))
        self.hu: dict[str, Floats] = {phase: np.zeros(self.shape, np.float32) for phase in phases}
        self.tracked: dict[str, Floats] = {}

    def window(self, low: NDArray | tuple, high: NDArray | tuple) -> Window | None:
        """Slices of the samples inside a box in mm, one sample wider; None if there is none."""
        found = []
        for axis, first, last, step in zip(
            (self.z, self.y, self.x), low, high, self.spacing, strict=True
        ):
            start = int(np.searchsorted(axis, first - step))
            stop = int(np.searchsorted(axis, last + step, side="right"))
            if stop <= start:
                return None
            found.append(slice(start, stop))
        return (found[0], found[1], found[2])

    def vectors(self, window: Window) -> tuple[NDArray, NDArray, NDArray]:
        """The coordinate vectors of a window."""
        return self.z[window[0]], self.y[window[1]], self.x[window[2]]

    def axes(self, window: Window) -> tuple[Floats, Floats, Floats]:
        """The coordinates of a window, shaped to broadcast."""
        return open_axes(*self.vectors(window))

    def paint(
        self, window: Window, share: Floats, tissue: str, texture: Floats | None = None
    ) -> None:
        """Cover a window with a tissue.

        Args:
            window: Where.
            share: (Z, Y, X) coverage in [0, 1].
            tissue: Name in the HU table.
            texture: HU added to the tissue's value, same shape.
        """
        for phase, image in self.hu.items():
            part = image[window]
            change = np.float32(self.values[tissue][phase]) - part
            if texture is not None:
                change += texture
            change *= share
            part += change

    def track(self, name: str, window: Window, share: Floats) -> None:
        """Remember that a structure covers these samples; several parts of it take the maximum."""
        if name not in self.tracked:
            self.tracked[name] = np.zeros(self.shape, np.float32)
        part = self.tracked[name][window]
        np.maximum(part, share, out=part)

    def hide(self, names: tuple[str, ...], window: Window, share: Floats) -> None:
        """Take away from tracked structures what something else now covers."""
        for name in names:
            if name in self.tracked:
                self.tracked[name][window] *= 1 - share

    def tubes(self, tubes: Tubes) -> tuple[Window, Floats] | None:
        """Coverage by a set of tubes and the window that holds it; None if none is in the slab."""
        if tubes.count == 0:
            return None
        radius = np.maximum(tubes.start_radius, tubes.end_radius)[:, None]
        low = np.minimum(tubes.start, tubes.end) - radius
        high = np.maximum(tubes.start, tubes.end) + radius
        window = self.window(low.min(axis=0), high.max(axis=0))
        if window is None:
            return None
        origin = [part.start for part in window]
        share = np.zeros([part.stop - part.start for part in window], np.float32)
        for piece in range(tubes.count):
            inner = self.window(low[piece], high[piece])
            if inner is None:
                continue
            distance = tube_distance(*self.axes(inner), tubes, piece)
            covered = coverage(distance, self.width_mm)
            # a tube thinner than a sample never fills it
            covered *= np.float32(min(1.0, 2 * float(radius[piece, 0]) / self.width_mm))
            place = tuple(
                slice(part.start - first, part.stop - first)
                for part, first in zip(inner, origin, strict=True)
            )
            np.maximum(share[place], covered, out=share[place])
        return window, share


def block_mean(array: Floats, factors: tuple[int, int, int]) -> Floats:
    """Average blocks of fine samples: (Z*f, Y*g, X*h) -> (Z, Y, X)."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            size = array.shape
            moved = (*size[:axis], size[axis] // factor, factor, *size[axis + 1 :])
            array = array.reshape(moved).mean(axis=axis + 1, dtype=np.float32)
    return array
