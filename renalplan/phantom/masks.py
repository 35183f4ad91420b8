"""Dresses real label maps (1 kidney, 2 tumor) with simulated HU: real shapes, simulated tissue.

A drawn trunk is fitted to the mask: shifted so that its kidneys' place comes to lie on the real
ones, scaled by their distance, its skin widened until everything fits. The kidney's inside is
derived from the mask: what its outline bridges is sinus, the deep part of the parenchyma medulla.
Labels and grid stay exactly the file's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import DatasetError, UsageError
from renalplan.files import require_shown
from renalplan.geometry import Box, Grid, Spacing
from renalplan.images import ENDINGS, image_ending, read_volume
from renalplan.phantom.abdomen import Abdomen, draw_abdomen
from renalplan.phantom.anatomy import NOISE, PHASE, SCAN, generator
from renalplan.phantom.background import body_norm, paint_background
from renalplan.phantom.canvas import Canvas
from renalplan.phantom.inside import Inside, analyse_kidney, label_boxes, paint_inside
from renalplan.phantom.render import scan_slab, slabs
from renalplan.phantom.scanner import Noise, Sampling
from renalplan.phantom.tasks import TASKS, draw_phases
from renalplan.phantom.tissue import PHASES, draw_histology, draw_values

KIDNEY_X_MM = 66.0  # a kidney's distance from the midline in the drawn trunk
SCALES = (0.8, 1.25)  # a trunk is not shrunk or stretched beyond these
WALL_MARGIN_MM = 4.0
BRIDGE_MM = 120.0  # a single component wider than this is a horseshoe kidney


@dataclass(frozen=True, kw_only=True, eq=False)
class DressedCase:
    """A real label map with a simulated image; canonical (z, y, x) arrays."""

    images: dict[str, NDArray[np.int16]]
    labels: NDArray[np.uint8]
    grid: Grid
    spacing: Spacing
    truth: dict[str, Any]


def find_masks(folder: Path) -> list[Path]:
    """All label maps directly inside a folder, sorted by name."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder of label maps.")
    found = sorted(path for path in folder.iterdir() if image_ending(path) is not None)
    for path in found:
        require_shown(path)
    if not found:
        raise UsageError(f"{folder} holds no label maps (endings {', '.join(ENDINGS)}).")
    return found


def case_name(path: Path) -> str:
    """File name without its image ending."""
    return path.name.removesuffix(image_ending(path) or "")


def dress_mask(path: Path, *, seed: int, index: int) -> DressedCase:
    """Make a CT image for one label map.

    Args:
        path: Label map; 1 kidney, 2 tumor.
        seed: Of the data set.
        index: Of the case; decides tissue values, trunk and noise.

    Raises:
        DatasetError: the file holds other labels, or no kidney.
    """
    volume = read_volume(path, labels=True)
    labels: NDArray[np.uint8] = volume.array[0].astype(np.uint8, copy=False)
    if int(volume.array.max()) > 2 or (boxes := label_boxes(labels, volume.spacing)) == []:
        raise DatasetError(
            f"{path} needs kidneys with label 1 and tumors with label 2, nothing else."
        )
    rng = generator(seed, index, SCAN)
    phases = draw_phases(TASKS["kidney_tumor"], generator(seed, index, PHASE))
    values = draw_values(rng)
    histology = draw_histology(rng)
    abdomen, sampling, scale = _fit_trunk(draw_abdomen(rng), labels, volume.spacing, boxes)
    insides = [analyse_kidney(labels, volume.spacing, box, rng) for box in boxes]
    images = {phase: np.empty(labels.shape, np.int16) for phase in phases}
    noises = {
        phase: Noise(
            generator(seed, index, NOISE + PHASES.index(phase)),
            sampling.shape[1:],
            sampling.spacing,
        )
        for phase in phases
    }
    for place, canvas in slabs(sampling, values, phases, factors=(1, 1, 1), scale=scale):
        paint_background(canvas, abdomen)
        for inside in insides:
            _paint(canvas, inside, place, histology)
        scan_slab(canvas, sampling, noises, images, place, (1, 1, 1))
    voxel_ml = float(np.prod(volume.spacing)) / 1000
    return DressedCase(
        images=images,
        labels=labels,
        grid=volume.grid,
        spacing=volume.spacing,
        truth={
            "components": len(boxes),
            "kidney_ml": float(np.count_nonzero(labels == 1)) * voxel_ml,
            "tumor_ml": float(np.count_nonzero(labels == 2)) * voxel_ml,
            "histology": histology,
        },
    )


def _paint(canvas: Canvas, inside: Inside, place: slice, histology: str) -> None:
    (start, stop), *_ = inside.box
    low, high = max(start, place.start), min(stop, place.stop)
    if low < high:
        paint_inside(canvas, inside, slice(low, high), place.start, histology)


def _fit_trunk(
    abdomen: Abdomen, labels: NDArray[np.uint8], spacing: Spacing, boxes: list[Box]
) -> tuple[Abdomen, Sampling, float]:
    """The trunk around real kidneys: widened, the voxels' place in it, its mm per real mm."""
    steps = np.array(spacing)
    centres = np.array([[(a + b - 1) / 2 for a, b in box] for box in boxes]) * steps
    middle = (np.array(labels.shape) - 1) / 2 * steps
    if len(centres) == 2:
        midline = float(centres[:, 2].mean())
        real = abs(float(centres[0, 2] - centres[1, 2])) / 2
    elif (boxes[0][2][1] - boxes[0][2][0]) * steps[2] > BRIDGE_MM:
        midline, real = float(centres[0, 2]), KIDNEY_X_MM
    else:  # one kidney: the scan is centred on the body
        midline = float(middle[2])
        real = abs(float(centres[0, 2]) - midline)
    scale = float(np.clip(KIDNEY_X_MM / max(real, 1.0), *SCALES))
    origin = -np.array([centres[:, 0].mean(), centres[:, 1].mean(), midline])
    origin[1] += (abdomen.spine_y + 4) / scale
    # sampling in real mm; the canvas multiplies by the scale
    sampling = Sampling(
        shape=labels.shape,
        spacing=spacing,
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
    )
    return _widen(abdomen, labels, sampling, scale), sampling, scale


def _widen(
    abdomen: Abdomen, labels: NDArray[np.uint8], sampling: Sampling, scale: float
) -> Abdomen:
    """Enlarge the skin until every labelled voxel lies inside the muscle wall."""
    rows, columns = np.nonzero(labels.any(axis=0))
    y = (sampling.origin[1] + rows * sampling.spacing[1]) * scale
    x = (sampling.origin[2] + columns * sampling.spacing[2]) * scale
    wall = abdomen.fat_mm * 1.25 + abdomen.wall_mm + WALL_MARGIN_MM
    # a scan shows the whole body in nearly all patients: no wider than 96 % of the image
    room = [0.48 * sampling.shape[a] * sampling.spacing[a] * scale for a in (1, 2)]
    inner = abdomen.with_size(
        min(abdomen.half_width, room[1]) - wall, min(abdomen.half_depth, room[0]) - wall
    )
    step = max(1, len(y) // 2000)
    norms = np.array(
        [
            body_norm(inner, np.array([a]), np.array([b]))[0][0, 0]
            for a, b in zip(y[::step], x[::step], strict=True)
        ]
    )
    grow = max(1.0, float(norms.max()) * 1.01)
    return abdomen.with_size(inner.half_width * grow + wall, inner.half_depth * grow + wall)
