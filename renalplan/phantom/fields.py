"""Smooth random fields: the wobble of organ surfaces and the texture inside tissues."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from renalplan.phantom.shapes import Floats

_CELLS = 48  # lattice points per axis; the field repeats after 48 steps
_WIDTH = 0.7  # of the spreading Gaussian, in steps: just wide enough to hide the lattice
_REACH = 2.6  # steps; a Gaussian is cut off where it is 1e-3


class RandomField:
    """A stationary random field of mean 0 and standard deviation 1.

    White noise on a lattice, spread by Gaussians. Since the lattice is parallel to the axes, the
    field on a box of samples is three sparse matrix products, one per axis; they run on one thread
    and give the same bits everywhere.
    """

    def __init__(self, rng: np.random.Generator, step_mm: float) -> None:
        self.step_mm = step_mm
        self._lattice = rng.standard_normal((_CELLS, _CELLS, _CELLS), dtype=np.float32)

    def on(self, z: NDArray, y: NDArray, x: NDArray) -> Floats:
        """The field on the box spanned by three coordinate vectors, (Z, Y, X) float32."""
        (layers, along_z), (rows, along_y), (columns, along_x) = map(self._weights, (z, y, x))
        part = self._lattice[np.ix_(layers, rows, columns)]
        deep, high = len(layers), len(rows)
        # the axis that is spread comes first; the largest product, along z, needs no transposition
        part = along_x @ part.reshape(deep * high, -1).T
        part = part.reshape(len(x), deep, high).transpose(2, 1, 0).reshape(high, -1)
        part = (along_y @ part).reshape(len(y), deep, len(x))
        part = along_z @ part.transpose(1, 0, 2).reshape(deep, -1)
        return np.asarray(part, np.float32).reshape(len(z), len(y), len(x))

    def _weights(self, coordinates: NDArray) -> tuple[NDArray[np.int64], sparse.csr_matrix]:
        """The lattice points in reach and each sample's weights of them, squares adding to 1."""
        position = np.asarray(coordinates, float)[:, None] / self.step_mm
        offset = np.mod(position - np.arange(_CELLS) + _CELLS / 2, _CELLS) - _CELLS / 2
        weights = np.exp(-0.5 * (offset / _WIDTH) ** 2)
        weights[np.abs(offset) > _REACH] = 0
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        used = np.flatnonzero(weights.any(axis=0))
        return used, sparse.csr_matrix(weights[:, used].astype(np.float32))
