"""Draws tumors: size, type, shape, and where they sit on the kidney.

A tumor is star-shaped: an ellipsoid times low-order bumps. Its centre is moved along the capsule's
normal until the wanted share of its surface touches the kidney: contact is chosen, not accidental.

The sizes follow what is operated on partially: diameter lognormal, median 34 mm, log sd 0.40,
12 to 70 mm; contact 0.25 to 0.9. KiTS19's own largest tumors are larger (median 47 mm).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.abdomen import Abdomen
from renalplan.phantom.background import body_norm
from renalplan.phantom.fields import RandomField
from renalplan.phantom.kidneys import Kidney
from renalplan.phantom.shapes import Floats, sphere_points
from renalplan.phantom.tissue import HISTOLOGIES, draw_histology

MEDIAN_MM, LOG_SPREAD, SMALLEST_MM, LARGEST_MM = 34.0, 0.40, 12.0, 70.0
CONTACT_RANGE = (0.2, 0.9)
_SURFACE = sphere_points(600)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tumor:
    """One tumor.

    Attributes:
        side: Of the kidney it grows from.
        histology: Key of `HISTOLOGIES`.
        centre: (3,) mm, patient frame.
        frame: (3, 3) rows are its axes.
        semi: (3,) mm.
        bumps: (5,) relative weights of low-order bumps.
        texture_hu: Standard deviation of its texture.
        necrosis: (N, 4) blobs: centre in units of `semi` along the axes, radius in mm.
        texture: The field behind the texture.
        contact: Share of the surface that lies in parenchyma.
    """

    side: str
    histology: str
    centre: NDArray[np.float64]
    frame: NDArray[np.float64]
    semi: NDArray[np.float64]
    bumps: NDArray[np.float64]
    texture_hu: float
    necrosis: NDArray[np.float64]
    texture: RandomField
    contact: float

    def radius(self, n: NDArray, m: NDArray, k: NDArray) -> NDArray:
        """Distance of the surface from the centre in a unit direction along the axes, mm."""
        first, second, third = (self.semi.astype(np.float32)[i] for i in range(3))
        norm = np.sqrt(np.square(n / first) + np.square(m / second) + np.square(k / third))
        weights = self.bumps.astype(np.float32)
        bump = weights[0] * n * m + weights[1] * m * k + weights[2] * n * k
        bump = bump + weights[3] * n * (n * n - 3 * k * k) + weights[4] * m * (m * m - 3 * n * n)
        return (1 + bump) / norm

    def distance(self, z: NDArray, y: NDArray, x: NDArray) -> Floats:
        """Distance to the surface along the ray from the centre, mm, negative inside."""
        dz, dy, dx = (axis - np.float32(c) for axis, c in zip((z, y, x), self.centre, strict=True))
        away = np.sqrt(dz * dz + dy * dy + dx * dx) + np.float32(1e-4)
        n, m, k = (
            (dz * np.float32(row[0]) + dy * np.float32(row[1]) + dx * np.float32(row[2])) / away
            for row in self.frame
        )
        result: Floats = (away - self.radius(n, m, k)).astype(np.float32)
        return result

    def surface(self) -> NDArray[np.float64]:
        """(600, 3) points on the surface, patient frame, mm."""
        lengths = self.radius(*_SURFACE.T)
        return self.centre + (lengths[:, None] * _SURFACE) @ self.frame

    @property
    def reach_mm(self) -> float:
        """Largest distance of the surface from the centre."""
        return float(self.radius(*_SURFACE.T).max())

    @property
    def volume_ml(self) -> float:
        """Volume by the integral of r^3 / 3 over the directions."""
        return float((self.radius(*_SURFACE.T) ** 3).mean() * 4 / 3 * np.pi / 1000)

    @property
    def diameter_mm(self) -> float:
        """Largest distance between two points of the surface."""
        points = self.surface()
        gram = points @ points.T
        square = np.diag(gram)
        return float(np.sqrt(np.max(square[:, None] + square[None, :] - 2 * gram)))


def draw_tumor(
    rng: np.random.Generator, kidney: Kidney, abdomen: Abdomen, others: tuple[Tumor, ...] = ()
) -> Tumor | None:
    """Draw one tumor of a kidney; None in the rare case that no place for it is found."""
    diameter = float(np.clip(rng.lognormal(np.log(MEDIAN_MM), LOG_SPREAD), SMALLEST_MM, LARGEST_MM))
    wanted = float(rng.uniform(0.25, CONTACT_RANGE[1]))
    tumor = _draw_body(rng, kidney.side, diameter)
    for attempt in range(40):
        if attempt % 10 == 9:  # too large for this patient
            tumor = replace(tumor, semi=tumor.semi * 0.8)
        placed = _attach(tumor, kidney, _draw_site(rng), wanted)
        low, high = CONTACT_RANGE
        if low <= placed.contact <= high and _fits(placed, abdomen, others):
            return placed
    return None


def _draw_body(rng: np.random.Generator, side: str, diameter: float) -> Tumor:
    histology = draw_histology(rng)
    kind = HISTOLOGIES[histology]
    axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    blobs = int(rng.integers(0, kind.necrosis + 1)) if diameter > 20 else 0
    return Tumor(
        side=side,
        histology=histology,
        centre=np.zeros(3),
        frame=axes,
        semi=diameter / 2 * np.array([1.0, rng.uniform(0.8, 1), rng.uniform(0.72, 0.95)]),
        bumps=rng.normal(0, 0.07, 5),
        texture_hu=float(rng.uniform(*kind.texture_hu)),
        necrosis=np.column_stack(
            [rng.uniform(-0.45, 0.45, (blobs, 3)), diameter * rng.uniform(0.08, 0.2, blobs)]
        ),
        texture=RandomField(rng, float(rng.uniform(2.0, 4.5))),
        contact=0.0,
    )


def _draw_site(rng: np.random.Generator) -> NDArray[np.float64]:
    """A direction in the kidney's frame that is not the hilum's."""
    while True:
        direction = rng.standard_normal(3)
        direction /= np.linalg.norm(direction)
        if direction[2] > -0.35:
            return direction


def _attach(tumor: Tumor, kidney: Kidney, direction: NDArray, wanted: float) -> Tumor:
    """Move the centre along the capsule's normal to where contact is nearest to `wanted`."""
    semi = np.array(kidney.semi)
    foot = kidney.patient(direction * semi * 0.97)
    normal = (direction / semi) @ kidney.frame
    normal /= np.linalg.norm(normal)
    reach = float(tumor.semi.max())
    best = tumor
    for shift in np.linspace(-1.1 * reach, 0.8 * reach, 20):
        moved = replace(tumor, centre=foot + shift * normal)
        points = moved.surface().T
        inside = kidney.parenchyma_distance(*kidney.bean(*points)) < 0
        contact = float(inside.mean())
        if abs(contact - wanted) < abs(best.contact - wanted):
            best = replace(moved, contact=contact)
    return best


def _fits(tumor: Tumor, abdomen: Abdomen, others: tuple[Tumor, ...]) -> bool:
    """Whether it stays inside the body wall, beside the spine and apart from other tumors."""
    points = tumor.surface()
    norm, scale = (np.diagonal(part) for part in body_norm(abdomen, points[:, 1], points[:, 2]))
    depth = (norm - 1) * scale + abdomen.fat_mm
    if depth.max() > 0 or (np.abs(points[:, 2]) < 22).any():
        return False
    return all(
        np.linalg.norm(tumor.centre - other.centre) > tumor.reach_mm + other.reach_mm
        for other in others
    )
