"""Paints a trunk on a canvas: air, body layers, muscles, organs, bowel, spine, great vessels.

The painter's order is the anatomy: what is painted later lies in front. Everything inside the body
wall is cut by the wall, so that a large liver bends to the flank instead of growing through it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.abdomen import VERTEBRA_MM, Abdomen, Blob, Bowel
from renalplan.phantom.canvas import Canvas
from renalplan.phantom.shapes import Floats, coverage, ellipsoid_distance

TEXTURE_HU = 6.0  # fine texture of soft tissue (fat strands, muscle fibres)
_FAR = 1e4


def paint_background(canvas: Canvas, abdomen: Abdomen) -> None:
    """Paint everything but kidneys, renal vessels and tumors over an empty canvas."""
    cavity = _paint_body(canvas, abdomen)
    _paint_muscles(canvas, abdomen)
    for blob in abdomen.blobs:
        _paint_blob(canvas, abdomen, blob, cavity)
    for bowel in abdomen.bowel:
        _paint_bowel(canvas, bowel, cavity)
    _paint_spine(canvas, abdomen)
    _paint_ribs(canvas, abdomen)
    for trunk, tissue in ((abdomen.vena_cava, "vena_cava"), (abdomen.aorta, "artery")):
        if (found := canvas.tubes(trunk)) is not None:
            canvas.paint(*found, tissue)
    texture = abdomen.texture.on(canvas.z, canvas.y, canvas.x)
    for image in canvas.hu.values():
        # weight 0 in air, 1 in soft tissue: texture does not belong to gas
        image += texture * np.clip(
            image * np.float32(TEXTURE_HU / 400) + TEXTURE_HU * 1.5, 0, TEXTURE_HU
        )


def body_norm(abdomen: Abdomen, y: NDArray, x: NDArray) -> tuple[Floats, Floats]:
    """The body outline's norm (1 on the skin) and the mm that one unit of it means there.

    Args:
        abdomen: Whose body.
        y: (Y,) mm.
        x: (X,) mm.

    Returns:
        Two (Y, X) float32 arrays.
    """
    across = np.abs(np.asarray(x, np.float32)[None, :]) / np.float32(abdomen.half_width)
    deep = np.abs(np.asarray(y, np.float32)[:, None]) / np.float32(abdomen.half_depth)
    # exponent 2.5: a trunk is a little squarer than an ellipse
    across_15, deep_15 = across * np.sqrt(across), deep * np.sqrt(deep)
    total = across_15 * across + deep_15 * deep + np.float32(1e-5)
    norm: Floats = np.power(total, np.float32(0.4))
    slope = np.power(total, np.float32(-0.6)) * np.sqrt(
        np.square(across_15 / abdomen.half_width) + np.square(deep_15 / abdomen.half_depth) + 1e-10
    )
    return norm, (1 / slope).astype(np.float32)


def _fat_mm(abdomen: Abdomen, y: NDArray, x: NDArray) -> Floats:
    """Thickness of the subcutaneous fat (Y, X): more at the back than at the front."""
    angle_y = np.asarray(y, np.float32)[:, None] / np.float32(abdomen.half_depth)
    angle_x = np.asarray(x, np.float32)[None, :] / np.float32(abdomen.half_width)
    back = angle_y / np.sqrt(angle_y**2 + angle_x**2 + np.float32(1e-3))
    return np.asarray(abdomen.fat_mm * (1 + np.float32(0.25) * back), np.float32)


def _paint_body(canvas: Canvas, abdomen: Abdomen) -> Floats:
    """Air, skin, fat and wall; returns the coverage by the space inside the wall."""
    norm, scale = body_norm(abdomen, canvas.y, canvas.x)
    fat = _fat_mm(abdomen, canvas.y, canvas.x)
    wobble = 1 + 0.015 * np.sin(np.asarray(canvas.z, np.float32) / 70)
    distance = (norm[None] - wobble[:, None, None]) * scale[None]
    body = coverage(distance, canvas.width_mm)
    beneath_skin = coverage(distance + np.float32(2.0), canvas.width_mm)
    distance += fat[None]
    muscle = coverage(distance, canvas.width_mm)
    distance += np.float32(abdomen.wall_mm)
    cavity = coverage(distance, canvas.width_mm)
    for phase, image in canvas.hu.items():
        hu = {name: np.float32(row[phase]) for name, row in canvas.values.items()}
        image[:] = hu["air"]
        image += body * (hu["skin"] - hu["air"])
        image += beneath_skin * (hu["fat"] - hu["skin"])
        image += muscle * (hu["muscle"] - hu["fat"])
        image += cavity * (hu["fat"] - hu["muscle"])
    return cavity


def _paint_muscles(canvas: Canvas, abdomen: Abdomen) -> None:
    spine_y, psoas = abdomen.spine_y, abdomen.psoas_mm
    for side in (-1, 1):
        columns = (
            # y, x, half depth, half width; the psoas widens towards the pelvis
            (spine_y + 4, 38.0 * side, psoas, psoas * 0.8, 0.35 / 100),
            (spine_y + 32, 66.0 * side, 9.0, 20.0, 0.0),  # quadratus lumborum
            (spine_y + 48, 33.0 * side, 21.0, 30.0, 0.0),  # erector spinae
        )
        for y, x, deep, wide, widening in columns:
            window = canvas.window(
                (-_FAR, y - 2 * deep, x - 2 * wide), (_FAR, y + 2 * deep, x + 2 * wide)
            )
            if window is None:
                continue
            axes = canvas.axes(window)
            size = np.clip(1 - np.float32(widening) * axes[0], 0.45, 1.5)
            away = np.sqrt(np.square((axes[1] - y) / deep) + np.square((axes[2] - x) / wide))
            distance = (away - size) * np.float32(min(deep, wide))
            canvas.paint(window, coverage(distance, canvas.width_mm), "muscle")


def _paint_blob(canvas: Canvas, abdomen: Abdomen, blob: Blob, cavity: Floats) -> None:
    centre, semi = np.array(blob.centre), np.array(blob.semi)
    reach = semi + 3 * blob.wobble_mm
    window = canvas.window(centre - reach, centre + reach)
    if window is None:
        return
    distance = ellipsoid_distance(*canvas.axes(window), blob.centre, blob.semi)
    vectors = canvas.vectors(window)
    distance += np.float32(blob.wobble_mm) * abdomen.wobble.on(*vectors)
    share = coverage(distance, canvas.width_mm)
    share *= cavity[window]
    mottle = None
    if blob.mottle_hu:
        # the wobble field, read four times finer, serves as texture of 7 mm
        mottle = abdomen.wobble.on(*(4 * vector + 97 for vector in vectors))
        mottle *= np.float32(blob.mottle_hu)
    canvas.paint(window, share, blob.tissue, mottle)


def _paint_bowel(canvas: Canvas, bowel: Bowel, cavity: Floats) -> None:
    found = canvas.tubes(bowel.tubes)
    if found is None:
        return
    window, share = found
    share *= cavity[window]
    canvas.paint(window, share, "bowel_wall")
    inner = type(bowel.tubes)(
        **{
            **bowel.tubes.__dict__,
            "start_radius": bowel.tubes.start_radius - bowel.wall_mm,
            "end_radius": bowel.tubes.end_radius - bowel.wall_mm,
        }
    )
    lumen = canvas.tubes(inner)
    if lumen is None:
        return
    window, share = lumen
    share *= cavity[window]
    canvas.paint(window, share, "bowel_content")
    if bowel.gas:
        # gas rises to the front in a patient lying on the back
        level = float(np.concatenate([bowel.tubes.start, bowel.tubes.end])[:, 1].mean()) - 3
        front = coverage(canvas.axes(window)[1] - np.float32(level), canvas.width_mm)
        canvas.paint(window, share * front, "gas")


def _paint_spine(canvas: Canvas, abdomen: Abdomen) -> None:
    middle = abdomen.spine_y
    window = canvas.window((-_FAR, middle - 20, -45), (_FAR, middle + 75, 45))
    if window is None:
        return
    z, y, x = canvas.axes(window)
    y = y - np.float32(middle)
    width = canvas.width_mm
    phase = np.mod(z + np.float32(abdomen.spine_shift_z), VERTEBRA_MM)  # 0..35, disc below 8 mm
    disc = coverage(np.abs(phase - 4) - 4, canvas.spacing[0])
    process = coverage(np.abs(phase - 20) - 9, canvas.spacing[0])

    round_body = (np.sqrt(np.square(x / 22) + np.square(y / 16)) - 1) * 18
    canal = np.sqrt(np.square(x) + np.square((y - 24) * 1.15)) - 9
    arch = np.abs(canal - 2.5) - 2.5
    spinous = np.maximum(np.abs(x) - 3.5, np.abs(y - 48) - 16)
    transverse = np.maximum(np.abs(y - 22) - 4, np.abs(np.abs(x) - 24) - 15)
    flat = np.ones((len(z), 1, 1), np.float32)
    bone = coverage(round_body, width) * flat
    canvas.paint(window, bone, "cortical_bone")
    # the shell is 1.5 mm; at coarse samples it fades into the spongy bone by itself
    inside = coverage(round_body + 1.5, width) * flat
    canvas.paint(window, inside, "trabecular_bone")
    canvas.paint(window, coverage(round_body, width) * disc, "disc")
    canvas.paint(
        window, coverage(np.minimum(spinous, transverse), width) * process, "cortical_bone"
    )
    canvas.paint(window, coverage(arch, width) * (1 - 0.6 * disc), "cortical_bone")
    canvas.paint(window, coverage(canal, width) * flat, "spinal_canal")


def _paint_ribs(canvas: Canvas, abdomen: Abdomen) -> None:
    """Ribs 8 to 12 in the wall: each falls from the spine to the front."""
    if canvas.z[-1] < -30:
        return
    norm, scale = body_norm(abdomen, canvas.y, canvas.x)
    across = (norm - 1) * scale + _fat_mm(abdomen, canvas.y, canvas.x) + np.float32(6)
    rows, columns = np.nonzero((np.abs(across) < 8) & (np.abs(canvas.x)[None, :] > 35))
    if rows.size == 0:
        return
    offset = across[rows, columns][None, :]
    angle = np.arctan2(canvas.y[rows], np.abs(canvas.x[columns]))  # +pi/2 back, -pi/2 front
    fall = np.float32(42) * (np.pi / 2 - angle).astype(np.float32)
    z = np.asarray(canvas.z, np.float32)[:, None]
    for rib in range(9):
        height = np.float32(62 + 30 * rib) - fall[None, :]
        near = np.flatnonzero((np.abs(z - height) < 10).any(axis=0))
        if near.size == 0:
            continue
        # the lowest ribs are short and end at the side
        long_enough = angle[near] > (0.25, -0.25, -0.9)[min(rib, 2)]
        near = near[long_enough]
        distance = np.hypot((z - height[:, near]) / 1.6, offset[:, near]) - np.float32(3.6)
        for tissue, shrink in (("cortical_bone", 0.0), ("trabecular_bone", 1.2)):
            share = coverage(distance + np.float32(shrink), canvas.width_mm)
            for phase, image in canvas.hu.items():
                part = image[:, rows[near], columns[near]]
                part += share * (np.float32(canvas.values[tissue][phase]) - part)
                image[:, rows[near], columns[near]] = part
