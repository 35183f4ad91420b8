"""Draws a patient's trunk: body outline, spine, muscles, organs, bowel and great vessels, in mm.

The frame: z = 0 between the kidneys, running to the head; y = 0 and x = 0 on the body's axis,
running to the back and to the patient's left. Sizes are typical adult ones and vary independently,
but what lies at the back hangs on the spine and what lies at the side on the body's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.fields import RandomField
from renalplan.phantom.shapes import Point, TubeBuilder, Tubes

VERTEBRA_MM = 35.0  # lumbar vertebra plus disc


@dataclass(frozen=True, kw_only=True)
class Blob:
    """An organ that is an axis-parallel ellipsoid with a wobbly surface.

    Attributes:
        tissue: Row of the HU table.
        centre: mm.
        semi: Half axes, mm.
        wobble_mm: Standard deviation of the surface's displacement.
        mottle_hu: Standard deviation of a coarse texture.
    """

    tissue: str
    centre: Point
    semi: Point
    wobble_mm: float = 4.0
    mottle_hu: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Bowel:
    """One loop of bowel: a tube with a wall, and gas above its content when there is some."""

    tubes: Tubes
    wall_mm: float
    gas: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Abdomen:
    """Everything but kidneys, renal vessels and tumors.

    Attributes:
        half_width: Half the body's width, mm.
        half_depth: Half the body's depth (front to back), mm.
        fat_mm: Subcutaneous fat at the side.
        wall_mm: Muscle wall.
        spine_y: Centre of the vertebral bodies.
        spine_shift_z: Where a vertebra begins.
        aorta: Trunk along z.
        vena_cava: Trunk along z.
        psoas_mm: Radius at kidney level.
        blobs: Organs, painted in this order.
        bowel: Loops, painted in this order.
        wobble: Displaces organ surfaces.
        texture: Fine texture of all soft tissue.
    """

    half_width: float
    half_depth: float
    fat_mm: float
    wall_mm: float
    spine_y: float
    spine_shift_z: float
    aorta: Tubes
    vena_cava: Tubes
    psoas_mm: float
    blobs: tuple[Blob, ...]
    bowel: tuple[Bowel, ...]
    wobble: RandomField
    texture: RandomField

    @property
    def cavity_half_width(self) -> float:
        """Half the width of the space inside the muscle wall, mm."""
        return self.half_width - self.fat_mm - self.wall_mm

    def with_size(self, half_width: float, half_depth: float) -> Abdomen:
        """The same trunk in a larger skin; the organs stay where they are."""
        fields = {**self.__dict__, "half_width": half_width, "half_depth": half_depth}
        return Abdomen(**fields)


def draw_abdomen(rng: np.random.Generator) -> Abdomen:
    """Draw a trunk."""
    half_width = float(np.clip(rng.normal(163, 12), 140, 186))
    half_depth = half_width * float(np.clip(rng.normal(0.68, 0.03), 0.6, 0.75))
    fat_mm = float(np.clip(8 + 0.35 * (half_width - 140) + rng.normal(0, 3), 5, 32))
    wall_mm = float(rng.uniform(10, 14))
    spine_y = half_depth - 78 - 0.4 * fat_mm + float(rng.normal(0, 2))
    aorta, vena_cava = _great_vessels(rng, spine_y)
    side = half_width - fat_mm - wall_mm
    front = -(half_depth - 0.8 * fat_mm - wall_mm)
    return Abdomen(
        half_width=half_width,
        half_depth=half_depth,
        fat_mm=fat_mm,
        wall_mm=wall_mm,
        spine_y=spine_y,
        spine_shift_z=float(rng.uniform(0, VERTEBRA_MM)),
        aorta=aorta,
        vena_cava=vena_cava,
        psoas_mm=float(rng.uniform(15, 21)),
        blobs=_organs(rng, spine_y, side, front),
        bowel=_bowel(rng, spine_y, side, front),
        wobble=RandomField(rng, 28.0),
        texture=RandomField(rng, 4.0),
    )


def _great_vessels(rng: np.random.Generator, spine_y: float) -> tuple[Tubes, Tubes]:
    aorta_radius, cava_radius = rng.uniform(8.5, 11.5), rng.uniform(9.5, 12.5)
    aorta_x, cava_x = rng.uniform(4, 14), rng.uniform(-24, -17)
    aorta_y, cava_y = spine_y - 18 - aorta_radius, spine_y - 16 - cava_radius
    heights = np.array([-400.0, -120.0, -60.0, 0.0, 60.0, 120.0, 400.0])
    trunks = []
    for x, y, radius in ((aorta_x, aorta_y, aorta_radius), (cava_x, cava_y, cava_radius)):
        builder = TubeBuilder()
        points = [np.array([z, y + rng.normal(0, 1.5), x + rng.normal(0, 1.5)]) for z in heights]
        builder.add_curve(points, (radius * 0.9, radius * 1.1), 0)
        trunks.append(builder.build())
    return trunks[0], trunks[1]


def _organs(
    rng: np.random.Generator, spine_y: float, side: float, front: float
) -> tuple[Blob, ...]:
    def near(z: float, y: float, x: float, spread: float = 6.0) -> Point:
        shift = rng.normal(0, spread, 3)
        return (z + shift[0], y + shift[1], x + shift[2])

    grow = float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.15))
    blobs = [
        Blob(tissue="lung", centre=(250.0, 0.0, -80.0), semi=(135.0, 95.0, 68.0), wobble_mm=2),
        Blob(tissue="lung", centre=(250.0, 0.0, 80.0), semi=(135.0, 95.0, 68.0), wobble_mm=2),
        Blob(tissue="heart", centre=(215.0, front / 2, 25.0), semi=(55.0, 45.0, 55.0)),
        Blob(
            tissue="bowel_wall",
            centre=near(85, front + 62, 60),
            semi=(40.0, 32.0, 42.0),
            wobble_mm=4,
        ),
        Blob(
            tissue="liver",
            centre=near(72, spine_y - 48, -0.57 * side),
            semi=(82 * grow, 78 * grow, 76 * grow),
            wobble_mm=6,
            mottle_hu=4,
        ),
        Blob(
            tissue="liver",
            centre=near(100, front + 42, 0),
            semi=(46 * grow, 36 * grow, 72 * grow),
            wobble_mm=5,
            mottle_hu=4,
        ),
        Blob(tissue="gallbladder", centre=near(12, front + 52, -62), semi=(26.0, 13.0, 14.0)),
        Blob(
            tissue="spleen",
            centre=near(78, spine_y - 2, 0.82 * side),
            semi=(48 * grow, 36 * grow, 26 * grow),
            mottle_hu=12,
        ),
        # pancreas and duodenum look like enhancing bowel wall on a CT
        Blob(tissue="bowel_wall", centre=near(28, spine_y - 62, 18), semi=(12.0, 11.0, 62.0)),
        Blob(tissue="bowel_content", centre=near(18, spine_y - 55, -42), semi=(38.0, 12.0, 13.0)),
    ]
    return tuple(blobs)


def _bowel(
    rng: np.random.Generator, spine_y: float, side: float, front: float
) -> tuple[Bowel, ...]:
    loops = []
    colon = {
        "ascending": [(-230, 6, -0.62), (-120, 4, -0.76), (-50, 0, -0.78), (-18, -22, -0.7)],
        "transverse": [(-18, -30, -0.66), (-22, -58, -0.3), (-30, -66, 0.1), (0, -52, 0.55)],
        "descending": [(30, -18, 0.8), (-40, 0, 0.84), (-120, 2, 0.8), (-230, -10, 0.6)],
    }
    for points in colon.values():
        radius = float(rng.uniform(14, 21))
        # y counts from the spine's front, x in half widths of the cavity
        path = [np.array([z, spine_y + y, x * side]) + rng.normal(0, 4, 3) for z, y, x in points]
        path[1:-1] = [np.array([p[0], max(p[1], front + radius + 4), p[2]]) for p in path[1:-1]]
        loops.append(_loop(rng, path, radius, wall_mm=2.0, gas=rng.random() < 0.6))
    for _ in range(26):
        radius = float(rng.uniform(9, 14))
        low = np.array([-230.0, front + radius + 3, -0.6 * side])
        high = np.array([20.0, spine_y - 52.0, 0.66 * side])
        # an unusual patient can leave a box no room along an axis
        point = rng.uniform(np.minimum(low, high), np.maximum(low, high))
        path = [point]
        heading = rng.standard_normal(3)
        for _ in range(4):
            heading = 0.5 * heading + rng.standard_normal(3)
            step = heading / np.linalg.norm(heading) * rng.uniform(25, 40)
            point = np.clip(point + step, low, high)
            path.append(point)
        loops.append(_loop(rng, path, radius, wall_mm=2.5, gas=rng.random() < 0.25))
    return tuple(loops)


def _loop(
    rng: np.random.Generator, path: list[NDArray], radius: float, wall_mm: float, gas: bool
) -> Bowel:
    builder = TubeBuilder()
    builder.add_curve(path, (radius, radius * float(rng.uniform(0.8, 1.1))), 0)
    return Bowel(tubes=builder.build(), wall_mm=wall_mm, gas=gas)
