"""Which kidney each voxel of kidney tissue and lesions belongs to.

Kidneys are large connected pieces with kidney tissue in them, one on either side of the body: what lies
on the same side is a part of one kidney (or a transplant, which is told). A single piece is cut in the
middle of a scan as wide as a body if much tissue lies on both sides: kidneys that touch, or a horseshoe
kidney. A tumor is never cut. What hangs on no kidney goes to the nearest one, unless it is far from both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from renalplan.evaluation.surface import surface_voxels
from renalplan.geometry import Spacing, box_slices, mask_box
from renalplan.kidneys import NORMAL, THRESHOLD_ML
from renalplan.pieces import number_pieces
from renalplan.regions import Piece, find_pieces

SIDES_MM = 30.0  # centres of two kidneys lie further apart than this from right to left
FAR_MM = 20.0  # a piece further from both kidneys belongs to neither

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Owners:
    """Who owns what.

    Attributes:
        numbers: (z, y, x) the kidney of each voxel of tissue and lesions, from 1; else 0.
        parts: Of how many large pieces each kidney consists.
        joined: Whether one piece was cut in two.
        apart: The pieces that belong to no kidney, the largest first.
    """

    numbers: NDArray[np.uint8]
    parts: tuple[int, ...]
    joined: bool
    apart: tuple[Piece, ...]


def find_owners(
    parenchyma: Mask, lesions: Mask, spacing: Spacing, midplane: int | None
) -> Owners | None:
    """Divide tissue and lesions among one or two kidneys.

    Args:
        parenchyma: (z, y, x) kidney tissue.
        lesions: The same shape.
        spacing: mm along (z, y, x).
        midplane: First voxel along x of the patient's left half; None if that is not known.

    Returns:
        None without kidney tissue.
    """
    organ = parenchyma | lesions
    pieces = find_pieces(organ, spacing, 0.0)  # the i-th is number i + 1 of `number_pieces`
    numbered = number_pieces(organ)
    tissue = np.bincount(numbered[parenchyma], minlength=len(pieces) + 1)[1:]
    order = sorted(np.flatnonzero(tissue), key=lambda i: -pieces[i].ml)
    if not order:
        return None
    large = [int(i) for i in order if pieces[i].ml > THRESHOLD_ML] or [int(order[0])]
    kidneys = _kidneys(large, pieces, spacing)
    owner = np.zeros(len(pieces) + 1, np.uint8)
    for number, piece in enumerate(kidneys, 1):
        owner[piece + 1] = number
    for i, of in _nearest(numbered, kidneys, spacing).items():
        owner[i] = of
    parts = tuple(
        sum(owner[i + 1] == number for i in large) for number in range(1, len(kidneys) + 1)
    )
    apart = sorted(
        (piece for i, piece in enumerate(pieces, 1) if not owner[i]), key=lambda piece: -piece.ml
    )
    numbers: NDArray[np.uint8] = owner[numbered]
    joined = len(kidneys) == 1 and _cut(numbers, parenchyma, lesions, spacing, midplane)
    return Owners(numbers, (*parts, *parts) if joined else parts, joined, tuple(apart))


def _kidneys(large: list[int], pieces: list[Piece], spacing: Spacing) -> list[int]:
    """The largest piece, and the largest on the other side of the body if there is one."""
    across = [pieces[i].centre[2] * spacing[2] for i in large]
    others = [i for i, x in zip(large, across, strict=True) if abs(x - across[0]) > SIDES_MM]
    return [large[0], *others][:NORMAL]


def _nearest(numbered: NDArray, kidneys: list[int], spacing: Spacing) -> dict[int, int]:
    """Number of each other piece -> the kidney (from 1) nearest to it, of those within `FAR_MM`."""
    others = numbered.copy()
    trees = []
    for piece in kidneys:
        own = numbered == piece + 1
        others[own] = 0
        trees.append(_tree(own, spacing))
    places = np.argwhere(others)
    of = others[tuple(places.T)]
    least = np.full((len(kidneys), int(numbered.max(initial=0)) + 1), np.inf)
    for row, tree in zip(least, trees, strict=True):
        away = tree.query(places * spacing, distance_upper_bound=FAR_MM)[0] if len(places) else ()
        np.minimum.at(row, of, away)
    return {
        int(i): int(least[:, i].argmin()) + 1
        for i in np.unique(of)
        if np.isfinite(least[:, i].min())
    }


def _tree(mask: Mask, spacing: Spacing) -> cKDTree:
    box = mask_box(mask)
    assert box is not None  # a piece has voxels
    start = np.array([low for low, _ in box])
    places = np.argwhere(surface_voxels(mask[box_slices(box)])) + start
    return cKDTree(places * spacing, balanced_tree=False)


def _cut(
    numbers: NDArray[np.uint8],
    parenchyma: Mask,
    lesions: Mask,
    spacing: Spacing,
    midplane: int | None,
) -> bool:
    """Number the left half 2, in place, if there is much kidney tissue in both; whether there is."""
    if midplane is None or not 0 < midplane < numbers.shape[2]:
        return False
    voxel_ml = float(np.prod(spacing)) / 1000
    tissue = parenchyma & (numbers > 0)
    halves = [np.count_nonzero(half) for half in np.split(tissue, [midplane], axis=2)]
    if min(halves) * voxel_ml <= THRESHOLD_ML:
        return False
    numbers[:, :, midplane:] *= 2
    cut = number_pieces(lesions & (numbers > 0))
    crossing = set(np.unique(cut[:, :, midplane - 1])) & set(np.unique(cut[:, :, midplane])) - {0}
    for lesion in crossing:
        whole = cut == lesion
        left = np.count_nonzero(whole[:, :, midplane:])
        numbers[whole] = 2 if 2 * left > np.count_nonzero(whole) else 1
    return True
