"""What is inside a kidney of which only a label map is known: sinus, medulla, tumor texture.

The outline of a kidney with its sinus is the convex hull of each slice, cut to a closing of the
mask: what the hull adds to the mask is sinus, filled with fat and, deep inside, with urine. Medulla
is the 30 % of parenchyma that lie deepest below the outline, broken up by a random field.
"""

from __future__ import annotations

from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import convex_hull_image

from renalplan.geometry import Box, Spacing, box_slices, grow_box, margin_voxels, mask_box
from renalplan.phantom.canvas import Canvas, Window
from renalplan.phantom.fields import RandomField
from renalplan.phantom.shapes import Floats
from renalplan.phantom.tissue import HISTOLOGIES
from renalplan.pieces import number_pieces

SMALLEST_ML = 8.0  # smaller parts are not kidneys of their own
CORTEX_MM = 6.0
MEDULLA_SHARE = 0.3
PELVIS_SHARE = 0.25  # of the sinus' greatest depth: deeper lies the pelvis
MARGIN_MM = 8.0
EDGE_VOX = 0.5  # blur that turns a binary mask into covered shares


@dataclass(frozen=True, kw_only=True, eq=False)
class Inside:
    """Shares of each voxel of a box, float16 (Z, Y, X), and the fields of texture.

    Attributes:
        box: Place in the scan, voxels.
        fat: Perirenal fat.
        kidney: Parenchyma.
        medulla: Part of it.
        sinus: Sinus fat.
        pelvis: Collecting system.
        tumor: Tumor.
        necrosis: Part of it that may be necrotic.
        parenchyma_field: Texture of the parenchyma.
        tumor_field: Texture of the tumor.
    """

    box: Box
    fat: NDArray[np.float16]
    kidney: NDArray[np.float16]
    medulla: NDArray[np.float16]
    sinus: NDArray[np.float16]
    pelvis: NDArray[np.float16]
    tumor: NDArray[np.float16]
    necrosis: NDArray[np.float16]
    parenchyma_field: RandomField
    tumor_field: RandomField


def label_boxes(labels: NDArray[np.uint8], spacing: Spacing) -> list[Box]:
    """Boxes of the one or two kidneys (with their tumors), right one first.

    Kidneys are the two largest components; smaller ones belong to the side they lie on. If the two
    touch (or there is one), the box of all labels is the only one.
    """
    whole = mask_box(labels)
    if whole is None:
        return []
    part = number_pieces(labels[box_slices(whole)] > 0)
    sizes = np.bincount(part.ravel())[1:] * (float(np.prod(spacing)) / 1000)
    large = np.flatnonzero(sizes >= SMALLEST_ML)
    if len(large) < 2:
        return [whole]
    found = ndimage.find_objects(part)
    order = sorted(large, key=lambda i: -float(sizes[i]))[:2]
    boxes = []
    for i in order:
        boxes.append(
            tuple(
                (s.start + first, s.stop + first)
                for s, (first, _) in zip(found[i], whole, strict=True)
            )
        )
    boxes.sort(key=lambda box: box[2][0] + box[2][1])
    (_, right_stop), (left_start, _) = boxes[0][2], boxes[1][2]
    if left_start < right_stop - (right_stop - boxes[0][2][0]) // 2:
        return [whole]  # one above the other: an unusual patient, taken as one
    return boxes  # type: ignore[return-value]  # three pairs each


def analyse_kidney(
    labels: NDArray[np.uint8], spacing: Spacing, box: Box, rng: np.random.Generator
) -> Inside:
    """Derive the inside of one kidney from its labels."""
    box = grow_box(box, margin_voxels(MARGIN_MM, spacing), labels.shape)
    part = labels[box_slices(box)]
    organ = part > 0
    outline = organ | (_hulls(organ) & _closed(organ, spacing))
    depth = edt.edt(outline, anisotropy=spacing, black_border=False)
    sinus = outline & ~organ
    pelvis = sinus & (edt.edt(sinus, anisotropy=spacing) > _pelvis_depth(sinus, spacing))
    parenchyma_field = RandomField(rng, 2.5)
    tumor_field = RandomField(rng, float(rng.uniform(2.0, 4.5)))
    kidney = part == 1
    columns = RandomField(rng, 7.0)
    vectors = [np.arange(n) * step for n, step in zip(part.shape, spacing, strict=True)]
    score = depth + 2.5 * columns.on(vectors[0], vectors[1], vectors[2])
    medulla = np.zeros(part.shape, np.bool_)
    deep = kidney & (depth > CORTEX_MM)
    if deep.any():
        share = min(1.0, MEDULLA_SHARE * np.count_nonzero(kidney) / np.count_nonzero(deep))
        medulla = deep & (score >= np.quantile(score[deep], 1 - share))
    tumor = part == 2
    core = edt.edt(tumor, anisotropy=spacing) > 4.0
    necrosis = core & (RandomField(rng, 9.0).on(vectors[0], vectors[1], vectors[2]) > 1.0)
    near = edt.edt(~outline, anisotropy=spacing) < MARGIN_MM * 0.8
    return Inside(
        box=box,
        fat=_soft(near),
        kidney=_soft(kidney),
        medulla=_soft(medulla),
        sinus=_soft(sinus),
        pelvis=_soft(pelvis),
        tumor=_soft(tumor),
        necrosis=_soft(necrosis),
        parenchyma_field=parenchyma_field,
        tumor_field=tumor_field,
    )


def _pelvis_depth(sinus: NDArray[np.bool_], spacing: Spacing) -> float:
    depth = edt.edt(sinus, anisotropy=spacing)
    return max(2.0, (1 - PELVIS_SHARE) * float(depth.max(initial=0)))


def _hulls(organ: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Convex hull of each slice."""
    result = np.zeros_like(organ)
    for number, slice_mask in enumerate(organ):
        if np.count_nonzero(slice_mask) > 20:
            result[number] = convex_hull_image(slice_mask)
    return result


def _closed(
    organ: NDArray[np.bool_], spacing: Spacing, reach_mm: float = 12.0
) -> NDArray[np.bool_]:
    """Closing by a ball, from two distance transforms."""
    pad = [(int(np.ceil(reach_mm / step)) + 1,) * 2 for step in spacing]
    padded = np.pad(organ, pad)
    grown = edt.edt(~padded, anisotropy=spacing) <= reach_mm
    closed = edt.edt(grown, anisotropy=spacing) > reach_mm
    inner = tuple(slice(before, -after) for before, after in pad)
    result: NDArray[np.bool_] = closed[inner]
    return result


def _soft(mask: NDArray[np.bool_]) -> NDArray[np.float16]:
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), (0, EDGE_VOX, EDGE_VOX))
    result: NDArray[np.float16] = blurred.astype(np.float16)
    return result


def paint_inside(
    canvas: Canvas, inside: Inside, slices: slice, slab_start: int, histology: str
) -> None:
    """Paint the slices [start, stop) of the scan on a canvas whose first slice is `slab_start`.

    The canvas needs one sample per voxel.
    """
    first = inside.box[0][0]
    own = slice(slices.start - first, slices.stop - first)
    window: Window = (
        slice(slices.start - slab_start, slices.stop - slab_start),
        slice(*inside.box[1]),
        slice(*inside.box[2]),
    )

    def share(name: str) -> Floats:
        part: NDArray[np.float16] = getattr(inside, name)[own]
        return part.astype(np.float32)

    vectors = canvas.vectors(window)
    texture = inside.parenchyma_field.on(*vectors) * np.float32(8)
    kind = HISTOLOGIES[histology]
    canvas.paint(window, share("fat"), "fat")
    canvas.paint(window, share("sinus"), "sinus_fat", texture)
    canvas.paint(window, share("pelvis"), "collecting_system")
    canvas.paint(window, share("kidney"), "cortex", texture)
    canvas.paint(window, share("medulla"), "medulla", texture)
    spots = inside.tumor_field.on(*vectors) * np.float32(np.mean(kind.texture_hu))
    canvas.paint(window, share("tumor"), kind.tissue, spots)
    if kind.necrosis:
        canvas.paint(window, share("necrosis"), "necrosis")
