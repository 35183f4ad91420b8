"""The arteries of one kidney, and which of them feed a tumor, as records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from renalplan.evaluation.surgery.breaks import find_breaks, find_contacts
from renalplan.evaluation.surgery.clamping import Sets, cheapest_sets
from renalplan.evaluation.surgery.mesh import Mesh, face_points
from renalplan.evaluation.surgery.numbers import ML, MM, SHARE, Number, measured, needs
from renalplan.evaluation.surgery.records import Arteries, Branch, BranchAtTumor, Clamping, Supply
from renalplan.evaluation.surgery.sides import KidneyMasks, Mask
from renalplan.evaluation.surgery.territories import Territories, divide
from renalplan.evaluation.surgery.tree import ArteryTree

FINEST_MM = 1.25  # beyond this slice thickness interlobar arteries cannot be seen
NO_REACH = "arteries that reach the kidney"
NO_ARTERY = "a renal artery on this side that is more than a speck"


@dataclass(frozen=True, eq=False)
class ArteryMap:
    """A kidney's arteries and territories.

    Attributes:
        tree: The branches.
        territories: Who feeds what; None if no tip reaches the kidney.
        lost_ml: Branch -> parenchyma in its territory.
        families: Branch -> itself and all branches beyond.
    """

    tree: ArteryTree
    territories: Territories | None
    lost_ml: dict[int, float]
    families: dict[int, frozenset[int]]


def why_no_arteries(masks: KidneyMasks) -> str:
    """What it would take to say anything about a kidney's arteries; empty if it is there."""
    if masks.artery is None:
        return "a label for the renal artery"
    if max(masks.frame.spacing) > FINEST_MM:
        return (
            f"voxels of at most {FINEST_MM} mm (they are up to {max(masks.frame.spacing):.3g} mm)"
        )
    return "" if masks.artery.any() else NO_ARTERY


def map_arteries(masks: KidneyMasks, tree: ArteryTree) -> ArteryMap:
    """Divide a kidney among its arteries."""
    territories = divide(masks.organ, tree, masks.frame.spacing)
    families = {branch.number: tree.family(branch.number) for branch in tree.branches}
    own = _count(territories, masks.parenchyma, len(tree.branches)) * masks.frame.voxel_ml
    lost = {number: float(own[list(family)].sum()) for number, family in families.items()}
    return ArteryMap(tree, territories, lost, families)


def describe_arteries(masks: KidneyMasks, arteries: ArteryMap) -> Arteries:
    """The branches of a kidney and what is wrong with them."""
    tree, frame, territories = arteries.tree, masks.frame, arteries.territories
    whole = float(np.count_nonzero(masks.parenchyma)) * frame.voxel_ml

    def fed(value: float, unit: str) -> Number:
        return needs(NO_REACH, unit) if territories is None else measured(value, unit)

    branches = tuple(
        Branch(
            number=branch.number,
            parent=branch.parent,
            generation=branch.generation,
            terminal=branch.terminal,
            rooted=branch.piece in tree.rooted,
            start_mm=frame.point(branch.path[0]),
            end_mm=frame.point(branch.path[-1]),
            length=measured(branch.length_mm, MM),
            radius=measured(branch.radius_mm, MM),
            territory=fed(arteries.lost_ml[branch.number], ML),
            lost_share=fed(arteries.lost_ml[branch.number] / whole, SHARE),
        )
        for branch in tree.branches
    )
    both = masks.artery is not None and masks.vein is not None
    return Arteries(
        root=tree.root,
        branches=branches,
        breaks=find_breaks(tree, frame),
        loops_mm=tuple(frame.point(place) for place in tree.loops),
        vein_contacts=find_contacts(masks.artery, masks.vein, frame) if both else (),  # type: ignore[arg-type]
        unreached=None if territories is None else measured(territories.straight_ml, ML),
    )


def describe_supply(
    masks: KidneyMasks,
    arteries: ArteryMap,
    mesh: Mesh,
    tumor: Mask,
    distance: NDArray[np.float32],
    margin_mm: float,
) -> Supply:
    """Which branches feed a tumor and its margin.

    Args:
        masks: The kidney.
        arteries: Its arteries.
        mesh: The tumor's surface.
        tumor: (z, y, x).
        distance: (z, y, x) mm of parenchyma from the tumor, see `resection.distance_to`.
        margin_mm: The margin.
    """
    tree, territories = arteries.tree, arteries.territories
    distances = branch_distances(masks, tree, mesh)
    nearest = min(distances, key=lambda number: distances[number])
    if territories is None:
        missing = needs(NO_REACH, SHARE).missing
        return Supply(missing=missing, margin_mm=margin_mm, nearest=nearest)
    margin = distance <= margin_mm
    in_tumor = _count(territories, tumor, len(tree.branches))
    in_margin = _count(territories, margin, len(tree.branches))
    feeding = frozenset(int(n) for n in np.flatnonzero(in_tumor + in_margin))
    branches = []
    for branch in tree.branches:
        family = list(arteries.families[branch.number])
        if not feeding.intersection(family) and branch.number != nearest:
            continue
        branches.append(
            BranchAtTumor(
                number=branch.number,
                distance=measured(distances[branch.number], MM),
                tumor_share=measured(in_tumor[family].sum() / in_tumor.sum(), SHARE),
                margin_share=measured(in_margin[family].sum() / in_margin.sum(), SHARE)
                if in_margin.any()
                else needs("parenchyma within the margin", SHARE),
            )
        )
    rooted = {branch.number for branch in tree.branches if branch.piece in tree.rooted}
    return Supply(
        margin_mm=margin_mm,
        nearest=nearest,
        branches=tuple(branches),
        clampings=_clampings(masks, arteries, feeding),
        parent_unknown=not feeding <= rooted,
    )


def branch_distances(masks: KidneyMasks, tree: ArteryTree, mesh: Mesh) -> dict[int, float]:
    """Branch -> distance in mm from a tumor's surface to the branch's wall."""
    search = cKDTree(np.concatenate([branch.path for branch in tree.branches]))
    owner = np.concatenate([np.full(len(b.path), b.number) for b in tree.branches])
    artery = masks.artery if masks.artery is not None else np.zeros(tree.parts.shape, bool)
    wall = face_points(artery & ~np.isin(tree.parts, list(tree.specks)), masks.frame.spacing)
    away = cKDTree(mesh.vertices).query(wall)[0]
    of = owner[search.query(wall)[1]]
    # a branch so short that no wall is nearest to it lies where its parent ends
    centre = {b.number: cKDTree(mesh.vertices).query(b.path)[0].min() for b in tree.branches}
    return {
        number: float(away[of == number].min()) if (of == number).any() else float(centre[number])
        for number in centre
    }


def _count(territories: Territories | None, mask: Mask, branches: int) -> NDArray[np.int64]:
    """(branches + 1,) voxels of a mask that each branch feeds itself."""
    if territories is None:
        return np.zeros(branches + 1, np.int64)
    return np.bincount(territories.owner[mask], minlength=branches + 1)


def _clampings(
    masks: KidneyMasks, arteries: ArteryMap, feeding: frozenset[int]
) -> tuple[Clamping, ...]:
    parents = {branch.number: branch.parent for branch in arteries.tree.branches}
    cost = {tip.number: arteries.lost_ml[tip.number] for tip in arteries.tree.tips}
    whole = float(np.count_nonzero(masks.parenchyma)) * masks.frame.voxel_ml
    return tuple(
        Clamping(
            branches=tuple(sorted(branches)),
            lost=measured(lost, ML),
            lost_share=measured(lost / whole, SHARE),
        )
        for lost, branches in _worth_telling(cheapest_sets(parents, cost, feeding))
    )


def _worth_telling(sets: Sets) -> Iterator[tuple[float, frozenset[int]]]:
    """The sets that cover the tumor and lose less than every set of fewer clamps."""
    least = np.inf  # which is also the cost where so few clamps do not suffice
    for lost, branches in sets:
        if branches and lost < least - 1e-9:
            least = lost
            yield lost, branches
