"""Draws kidneys: shape, sinus, pyramids, collecting system, all in the kidney's own frame.

The kidney frame (u, v, w): u along the kidney to its upper pole, v to the front, w away from the
hilum. "Bean" coordinates bend w so that the poles lean to the hilum; there the capsule is a
superellipsoid with a low-order wobble and the sinus an ellipsoid that opens at the hilum.

The columns' width is not drawn: it is solved for, such that the medulla takes the drawn share of
the parenchyma.

Sources:
    [Glodny2009] B. Glodny et al. 2009, 2068 kidneys: length R 108.5 (12.2), L 111.3 (12.6) mm,
    parenchyma 15.5 (2.8) mm, cortex 6.6 (1.9) mm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.shapes import (
    Floats,
    Point,
    TubeBuilder,
    Tubes,
    ellipsoid_distance,
    sphere_points,
    superellipsoid_distance,
)

SIDES = {"left": 1, "right": -1}  # direction of x that leads away from the midline
APEX_WIDTH = 0.3  # a pyramid's width at its tip, as a share of the base


@dataclass(frozen=True, kw_only=True, eq=False)
class Kidney:
    """One kidney.

    Attributes:
        side: "left" or "right".
        centre: (3,) mm in the patient frame.
        frame: (3, 3); rows are the unit vectors of u, v, w in patient (z, y, x).
        semi: Half axes of the capsule along (u, v, w), mm.
        bend_mm: How far the poles lean to the hilum.
        wobble: (6,) mm, weights of the capsule's low-order bumps.
        sinus_centre: In bean coordinates, mm.
        sinus_semi: mm.
        cortex_mm: Thickness of the outer cortex.
        apices: (K, 3) pyramid tips in bean coordinates, mm.
        bases: (K, 3) pyramid base centres.
        column_ratio: A point belongs to a pyramid if its distance from the nearest axis is below
            this share of that from the second nearest; between them are columns of cortex.
        collecting: Pelvis, calyces and ureter in the patient frame.
        cyst: Centre (bean coordinates) and radius of a simple cyst, if there is one.
    """

    side: str
    centre: NDArray[np.float64]
    frame: NDArray[np.float64]
    semi: Point
    bend_mm: float
    wobble: NDArray[np.float64]
    sinus_centre: Point
    sinus_semi: Point
    cortex_mm: float
    apices: NDArray[np.float64]
    bases: NDArray[np.float64]
    column_ratio: float
    collecting: Tubes
    cyst: tuple[Point, float] | None

    @property
    def sign(self) -> int:
        """+1 for the left kidney (larger x), -1 for the right one."""
        return SIDES[self.side]

    def half_box(self) -> NDArray[np.float64]:
        """(3,) half extents in mm of an upright box that holds the kidney."""
        reach = np.sqrt(((np.array(self.semi)[:, None] * self.frame) ** 2).sum(axis=0))
        return reach * 1.12 + self.bend_mm + 3

    def bean(self, z: NDArray, y: NDArray, x: NDArray) -> tuple[Floats, Floats, Floats]:
        """Patient coordinates (broadcasting, mm) as bean coordinates."""
        offsets = [
            axis - np.float32(middle) for axis, middle in zip((z, y, x), self.centre, strict=True)
        ]
        u, v, w = (
            offsets[0] * np.float32(row[0])
            + offsets[1] * np.float32(row[1])
            + offsets[2] * np.float32(row[2])
            for row in self.frame
        )
        w = w + self._lean(u)
        return u, v, w

    def patient(self, bean: NDArray) -> NDArray[np.float64]:
        """Bean points (..., 3) as patient points (..., 3)."""
        straight = np.array(bean, float)
        straight[..., 2] -= self._lean(straight[..., 0])
        result: NDArray[np.float64] = self.centre + straight @ self.frame
        return result

    def _lean(self, u: NDArray) -> NDArray:
        return np.float32(self.bend_mm) * (
            np.square(u / np.float32(self.semi[0])) - np.float32(0.3)
        )

    def capsule_distance(self, u: NDArray, v: NDArray, w: NDArray) -> Floats:
        """Distance to the capsule, mm, negative inside; bean coordinates."""
        distance = superellipsoid_distance(u, v, w, self.semi)
        n, m, k = (
            axis * np.float32(1 / half) for axis, half in zip((u, v, w), self.semi, strict=True)
        )
        size2 = n * n + m * m + k * k + np.float32(0.05)
        weights = self.wobble.astype(np.float32)
        bumps = weights[0] * n * m + weights[1] * m * k + weights[2] * n * k
        bumps += weights[3] * (n * n - k * k) + weights[4] * n * (n * n - 3 * k * k)
        bumps += weights[5] * m * (k * k - n * n)
        distance += bumps / size2
        return distance

    def sinus_distance(self, u: NDArray, v: NDArray, w: NDArray) -> Floats:
        """Distance to the sinus, mm, negative inside; bean coordinates."""
        return ellipsoid_distance(u, v, w, self.sinus_centre, self.sinus_semi)

    def parenchyma_distance(self, u: NDArray, v: NDArray, w: NDArray) -> Floats:
        """Distance to the parenchyma: inside the capsule, outside the sinus."""
        return np.maximum(self.capsule_distance(u, v, w), -self.sinus_distance(u, v, w))

    def pyramid_distance(self, u: NDArray, v: NDArray, w: NDArray) -> Floats:
        """Distance to the union of the pyramids (not yet cut by cortex and sinus), mm."""
        first, second = _nearest_two(self, (u, v, w))
        # 0.8: a pyramid's mean relative width turns the scaled distances back into mm
        result: Floats = (first - second * np.float32(self.column_ratio)) * np.float32(
            0.8 / (1 + self.column_ratio)
        )
        return result


def _nearest_two(kidney: Kidney, points: tuple[NDArray, NDArray, NDArray]) -> tuple[Floats, Floats]:
    """Distances from the two nearest pyramid axes, over the pyramids' widths there."""
    shape = np.broadcast_shapes(*(axis.shape for axis in points))
    first = np.full(shape, np.inf, np.float32)
    second = first.copy()
    for apex, base in zip(kidney.apices, kidney.bases, strict=True):
        radial, width = _cone(*points, apex, base)
        radial /= width
        np.minimum(second, np.maximum(first, radial), out=second)
        np.minimum(first, radial, out=first)
    return first, second


def _cone(
    u: NDArray, v: NDArray, w: NDArray, apex: NDArray, base: NDArray
) -> tuple[Floats, Floats]:
    """Distance from a pyramid's axis and the pyramid's relative width there (1 at the base)."""
    axis = (base - apex).astype(np.float32)
    length2 = np.float32(max(float(axis @ axis), 1.0))
    du, dv, dw = (c - np.float32(a) for c, a in zip((u, v, w), apex, strict=True))
    t = (du * axis[0] + dv * axis[1] + dw * axis[2]) / length2
    square = np.square(du - t * axis[0])
    square += np.square(dv - t * axis[1])
    square += np.square(dw - t * axis[2])
    radial: Floats = np.sqrt(square)
    width: Floats = np.clip(APEX_WIDTH + (1 - APEX_WIDTH) * t, APEX_WIDTH, 1.3)
    return radial, width


def draw_kidney(rng: np.random.Generator, side: str, spine_y: float) -> Kidney:
    """Draw one kidney at its place beside the spine."""
    sign = SIDES[side]
    length = float(np.clip(rng.normal(111.3 if side == "left" else 108.5, 9), 92, 134))
    semi = (
        length / 2,
        length / 2 * float(np.clip(rng.normal(0.45, 0.025), 0.38, 0.52)),
        length / 2 * float(np.clip(rng.normal(0.55, 0.03), 0.46, 0.63)),
    )
    centre = np.array(
        [
            (7 if side == "left" else -7) + rng.normal(0, 6),
            spine_y + rng.normal(4, 3),
            sign * (semi[2] + rng.normal(42, 3)),
        ]
    )
    parenchyma_mm = float(np.clip(rng.normal(15.5, 2), 12, 20)) * length / 110
    sinus_semi = (semi[0] - parenchyma_mm * 1.3, semi[1] - parenchyma_mm * 0.93, semi[2] * 0.85)
    kidney = Kidney(
        side=side,
        centre=centre,
        frame=_draw_frame(rng, sign),
        semi=semi,
        bend_mm=float(rng.uniform(3, 8)),
        wobble=rng.normal(0, 1.6, 6),
        # its outer end lies one parenchyma thickness below the capsule
        sinus_centre=(0.0, 0.0, semi[2] - parenchyma_mm - sinus_semi[2]),
        sinus_semi=sinus_semi,
        cortex_mm=float(np.clip(rng.normal(6.6, 1.0), 4.5, 8.5)),
        apices=np.zeros((0, 3)),
        bases=np.zeros((0, 3)),
        column_ratio=0.0,
        collecting=TubeBuilder().build(),
        cyst=None,
    )
    kidney = _with_pyramids(rng, kidney)
    kidney = replace(kidney, collecting=_draw_collecting(rng, kidney, spine_y))
    if rng.random() < 0.2:
        kidney = replace(kidney, cyst=_draw_cyst(rng, kidney))
    return kidney


def _draw_frame(rng: np.random.Generator, sign: int) -> NDArray[np.float64]:
    """Upper pole to the midline and back; hilum to the midline and front."""
    inward, backward = np.tan(np.radians([rng.normal(15, 4), rng.normal(10, 4)]))
    along = np.array([1.0, backward, -sign * inward])
    along /= np.linalg.norm(along)
    turn = np.radians(rng.normal(32, 7))
    outward = np.array([0.0, np.sin(turn), sign * np.cos(turn)])
    outward -= (outward @ along) * along
    outward /= np.linalg.norm(outward)
    front = np.cross(along, outward)
    if front[1] > 0:
        front = -front
    return np.stack([along, front, outward])


def _with_pyramids(rng: np.random.Generator, kidney: Kidney) -> Kidney:
    """Place 8 to 14 pyramids around the sinus and solve for the columns between them."""
    wanted = int(rng.integers(8, 15))
    spread = sphere_points(round(wanted / 0.68))
    turn = rng.uniform(0, 2 * np.pi)
    cosine, sine = np.cos(turn), np.sin(turn)
    directions = spread[:, [1, 2, 0]]  # the spiral's pole becomes the hilum's axis w
    directions[:, :2] = directions[:, :2] @ np.array([[cosine, -sine], [sine, cosine]])
    directions += rng.normal(0, 0.06, directions.shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[directions[:, 2] > -0.4]  # none at the hilum
    bases = directions * (np.array(kidney.semi) - kidney.cortex_mm)
    middle, semi = np.array(kidney.sinus_centre), np.array(kidney.sinus_semi)
    rays = bases - middle
    reach = np.linalg.norm(rays / semi, axis=1, keepdims=True)
    apices = middle + rays / np.maximum(reach, 1.05)
    kidney = replace(kidney, apices=apices, bases=bases)
    return replace(kidney, column_ratio=_solve_columns(kidney, float(rng.uniform(0.27, 0.33))))


def _solve_columns(kidney: Kidney, share: float) -> float:
    """Column ratio at which the pyramids fill `share` of the parenchyma, from 3 mm samples."""
    a, b, c = kidney.semi
    u, v, w = np.meshgrid(
        *(np.arange(-half - 6, half + 6, 3.0, dtype=np.float32) for half in (a, b, c)),
        indexing="ij",
    )
    outer, sinus = kidney.capsule_distance(u, v, w), kidney.sinus_distance(u, v, w)
    parenchyma = (outer < 0) & (sinus > 0)
    deep = parenchyma & (outer < -kidney.cortex_mm)
    first, second = _nearest_two(kidney, (u[deep], v[deep], w[deep]))
    rank = min(share * parenchyma.sum() / max(1, deep.sum()), 1.0)
    return float(np.quantile(first / second, rank))


def _draw_collecting(rng: np.random.Generator, kidney: Kidney, spine_y: float) -> Tubes:
    """Pelvis, major and minor calyces with their cups, ureter down along the psoas."""
    a, _, c = kidney.semi
    builder = TubeBuilder()

    def at(u: float, v: float, w: float) -> NDArray[np.float64]:
        return kidney.patient(np.array([u, v, w]))

    inner, outer = at(0, 0, -0.3 * c), at(-6, 0, -0.95 * c)
    size = float(rng.uniform(0.85, 1.2))
    builder.add([inner, outer], [5.5 * size, 5.0 * size], 0)
    knees = [at(0.36 * a, 0, -0.12 * c), at(0, 0, 0.0), at(-0.36 * a, 0, -0.12 * c)]
    knees = knees if rng.random() < 0.6 else [knees[0], knees[2]]
    for knee in knees:
        builder.add([inner, knee], [3.6 * size, 2.6 * size], 1)
    for apex in kidney.apices:
        tip = kidney.patient(apex)
        knee = min(knees, key=lambda point: float(np.linalg.norm(point - tip)))
        builder.add(
            [knee, knee + 0.75 * (tip - knee), tip], [2.0 * size, 1.5 * size, 2.9 * size], 2
        )
    sign = kidney.sign
    down = outer + np.array([-16.0, 2.0, -6.0 * sign])
    far = [np.array([outer[0] + z, spine_y - 14.0, 38.0 * sign]) for z in (-60, -130, -260)]
    builder.add_curve([outer, down, *far], (float(rng.uniform(1.8, 2.6)), 1.6), 3)
    return builder.build()


def _draw_cyst(rng: np.random.Generator, kidney: Kidney) -> tuple[Point, float]:
    """A simple cyst in the outer half of the kidney."""
    direction = rng.standard_normal(3)
    direction[2] = abs(direction[2])
    direction /= np.linalg.norm(direction)
    radius = float(np.clip(rng.lognormal(np.log(7), 0.4), 3, 16))
    u, v, w = direction * (np.array(kidney.semi) - rng.uniform(-0.3, 0.8) * radius)
    return (float(u), float(v), float(w)), radius
