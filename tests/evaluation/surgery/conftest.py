"""Scans made of shapes whose numbers are known, on any grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from renalplan.geometry import Grid, Spacing
from renalplan.labels import LabelScheme

LABELS = {
    "background": 0,
    "kidney": 1,
    "tumor": 2,
    "renal_artery": 3,
    "renal_vein": 4,
    "renal_sinus": 5,
    "collecting_system": 6,
    "aorta": 7,
    "cortex": 8,
}
SCHEME = LabelScheme(names=tuple(LABELS), values=tuple((v,) for v in LABELS.values()))

Inside = Callable[[NDArray], NDArray]  # LPS points (N, 3) -> (N,) bool


@dataclass
class Drawing:
    """Bodies in LPS mm, later ones over earlier ones; `scan` puts them on voxels."""

    bodies: list[tuple[int, Inside]] = field(default_factory=list)

    def ball(self, label: str, centre: tuple[float, float, float], radius: float) -> None:
        self.ellipsoid(label, centre, (radius, radius, radius))

    def ellipsoid(
        self, label: str, centre: tuple[float, float, float], semi: tuple[float, float, float]
    ) -> None:
        def inside(points: NDArray) -> NDArray:
            return (((points - centre) / semi) ** 2).sum(axis=1) < 1

        self.bodies.append((LABELS[label], inside))

    def box(self, label: str, low: tuple[float, ...], high: tuple[float, ...]) -> None:
        def inside(points: NDArray) -> NDArray:
            return ((points > low) & (points < high)).all(axis=1)

        self.bodies.append((LABELS[label], inside))

    def tube(
        self, label: str, start: tuple[float, ...], end: tuple[float, ...], radius: float
    ) -> None:
        first, along = np.array(start), np.subtract(end, start)

        def inside(points: NDArray) -> NDArray:
            share = np.clip((points - first) @ along / (along @ along), 0, 1)
            away = points - first - share[:, None] * along
            return (away**2).sum(axis=1) < radius**2

        self.bodies.append((LABELS[label], inside))

    def scan(
        self,
        low: tuple[float, float, float],
        high: tuple[float, float, float],
        spacing: Spacing,
        turned: Rotation | None = None,
    ) -> tuple[NDArray[np.uint8], Grid]:
        """Labels (z, y, x) and grid that cover an LPS box, the grid's axes turned; spacing (z, y, x)."""
        turn = np.eye(3) if turned is None else turned.as_matrix()
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T @ turn
        first, last = corners.min(axis=0) + 0.137, corners.max(axis=0)
        steps = np.array(spacing[::-1])
        size = np.ceil((last - first) / steps).astype(int)
        axes = [first[a] + np.arange(size[a]) * steps[a] for a in range(3)]
        z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
        points = np.stack([x.ravel(), y.ravel(), z.ravel()], axis=1) @ turn.T
        labels = np.zeros(len(points), np.uint8)
        for value, inside in self.bodies:
            labels[inside(points)] = value
        grid = Grid(
            size=(int(size[0]), int(size[1]), int(size[2])),
            spacing=(spacing[2], spacing[1], spacing[0]),
            origin=tuple(float(value) for value in turn @ first),  # type: ignore[arg-type]
            direction=tuple(float(value) for value in turn.ravel()),
        )
        return labels.reshape(size[::-1]), grid


@pytest.fixture
def drawing() -> Drawing:
    return Drawing()


@pytest.fixture
def scheme() -> LabelScheme:
    return SCHEME


@pytest.fixture
def kidney(drawing: Drawing) -> Drawing:
    """A right kidney of 80 x 44 x 40 mm whose sinus opens to the patient's left."""
    drawing.ellipsoid("kidney", (0, 0, 0), (22, 20, 40))
    drawing.ellipsoid("renal_sinus", (14, 0, 0), (14, 9, 18))
    drawing.bodies.append((0, lambda points: _outside_kidney(points)))
    return drawing


def _outside_kidney(points: NDArray) -> NDArray:
    return ((points / (22, 20, 40)) ** 2).sum(axis=1) >= 1
