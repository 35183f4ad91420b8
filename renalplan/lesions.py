"""Which tumor voxels count: the rules around the 3-D and the 2-D tumor network.

Masks and probabilities in, probabilities and a record of what was decided out; no network is run
here but by the function that is handed in.

Sources:
    [C2F] the coarse-to-fine system for KiTS19 of the group, sections 2.3 to 2.5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.geometry import Box, Spacing, box_slices
from renalplan.kidneys import LEAST_ML
from renalplan.pieces import number_pieces
from renalplan.regions import find_pieces

PADDING_MM = 25.0  # around the kidneys; the paper's 30 voxels would be 90 mm across slices
BOTH, FALLBACK, NOTHING = "3d+2d", "2d fallback", "none"  # who found the tumors

Refine = Callable[[list[Box]], NDArray[np.float32]]


@dataclass(frozen=True)
class Tumors:
    """What the rules make of the networks' answers.

    Attributes:
        probability: (z, y, x) float32; above one half exactly where a tumor is.
        source: `3d+2d`, `2d fallback` or `none`.
        kept_ml: Volume of each tumor, in order of position.
        removed_ml: Volume of each lesion that was removed because it does not touch a kidney.
    """

    probability: NDArray[np.float32]
    source: str
    kept_ml: tuple[float, ...]
    removed_ml: tuple[float, ...]


def decide_tumors(
    probability: NDArray[np.float32],
    refine: Refine,
    kidney: NDArray[np.bool_],
    boxes: list[Box],
    spacing: Spacing,
    least_ml: float = LEAST_ML,
) -> Tumors:
    """Apply the rules of [C2F, sections 2.4 and 2.5].

    1. A lesion counts if it is connected to the kidneys, and is removed otherwise.
    2. If the 3-D network finds nothing that counts, the 2-D network looks through the kidneys'
       boxes, and its lesions count by the same rule.
    3. Otherwise the 2-D network looks into the box around each of the 3-D network's lesions, and
       adds what that one missed there.

    Args:
        probability: (z, y, x) of the 3-D network in [0, 1], 0 where it did not look.
        refine: The 2-D network: boxes -> (z, y, x) probabilities, 0 outside them.
        kidney: (z, y, x) kidney and tumor as the fine network has them.
        boxes: Where tumors are looked for: around the kidneys, padded.
        spacing: mm along (z, y, x).
        least_ml: Less tumor than this in all is nothing found.
    """
    kept, removed = connected_to(probability > 0.5, kidney)
    removed_ml = volumes_ml(removed, spacing)
    if kept.sum() * np.prod(spacing) / 1000 >= least_ml:
        lesions = [piece.box for piece in find_pieces(kept, spacing, 0.0)]
        refined = refine(lesions)
        both = np.maximum(np.where(kept | (probability <= 0.5), probability, 0), refined)
        tumor, stray = connected_to(both > 0.5, kidney)
        return Tumors(
            _without(both, tumor), BOTH, volumes_ml(tumor, spacing),
            removed_ml + volumes_ml(stray, spacing),
        )  # fmt: skip
    refined = refine(boxes)
    tumor, stray = connected_to(refined > 0.5, kidney)
    removed_ml += volumes_ml(stray, spacing)
    if tumor.sum() * np.prod(spacing) / 1000 < least_ml:
        tumor = np.zeros_like(tumor)
    source = FALLBACK if tumor.any() else NOTHING
    return Tumors(_without(refined, tumor), source, volumes_ml(tumor, spacing), removed_ml)


def connected_to(
    lesions: NDArray[np.bool_], kidney: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Split a lesion mask into the components that overlap or touch a kidney, and the others.

    Voxels touch by a face, an edge or a corner.
    """
    labelled = number_pieces(lesions)
    reach = ndimage.binary_dilation(kidney, np.ones((3, 3, 3), bool)) if kidney.any() else kidney
    touching = np.zeros(int(labelled.max()) + 1, bool)
    touching[labelled[reach]] = True
    touching[0] = False
    kept: NDArray[np.bool_] = touching[labelled]
    return kept, lesions & ~kept


def volumes_ml(mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, ...]:
    """Volume of each connected component, in order of position."""
    return tuple(piece.ml for piece in find_pieces(mask, spacing, 0.0))


def within(probability: NDArray[np.float32], boxes: list[Box]) -> NDArray[np.float32]:
    """The probabilities inside the boxes, 0 outside."""
    result = np.zeros_like(probability)
    for box in boxes:
        result[box_slices(box)] = probability[box_slices(box)]
    return result


def _without(probability: NDArray[np.float32], tumor: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Nothing is left of what stands above one half and was removed."""
    result: NDArray[np.float32] = np.where(
        tumor | (probability <= 0.5), probability, np.float32(0)
    ).astype(np.float32)
    return result
