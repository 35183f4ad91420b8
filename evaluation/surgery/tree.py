"""An artery's mask -> branches, each with its parent, length and radius.

The root is where the artery touches the aorta; without a label for the aorta, the end furthest from the
kidney. A piece of artery that has no root stays a tree of its own: nothing is joined to it (see
`breaks`), its parent is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from renalplan.evaluation.centerline import centerline_voxels
from renalplan.evaluation.surgery.calibre import arc, smooth_path, tube_radius
from renalplan.evaluation.surgery.sides import KidneyMasks, Mask
from renalplan.evaluation.surgery.skeleton import Skeleton, make_skeleton
from renalplan.geometry import Spacing
from renalplan.pieces import number_pieces

AT_AORTA, FARTHEST = "where it touches the aorta", "its end farthest from the kidney"
TOUCH_MM = 2.0  # an artery this near to the aorta's label touches it
LEAST_TRUNK_MM = 10.0  # without an aorta: a root lies at least so far from the kidney …
TRUNK_SHARE = 0.6  # … and at least so far as this share of the farthest end
FORK_MM = 2.0  # forks nearer to each other are one
SPECK_MM = 4.0  # a piece shorter than this is no vessel


@dataclass(frozen=True, kw_only=True, eq=False)
class ArteryBranch:
    """The stretch of a vessel between two forks, or between a fork and an end.

    Attributes:
        number: From 1.
        parent: Number of the branch that it leaves; 0 if none is known.
        generation: 0 for branches without a parent.
        piece: Which connected piece of the mask it belongs to.
        path: (K, 3) smooth centerline away from the root, array mm.
        length_mm: Of the centerline.
        radius_mm: Of a round tube of the same volume and length.
        terminal: Whether no branch leaves it.
    """

    number: int
    parent: int
    generation: int
    piece: int
    path: NDArray[np.float64]
    length_mm: float
    radius_mm: float
    terminal: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class ArteryTree:
    """All branches of a kidney's arteries.

    Attributes:
        branches: In order of number; a parent comes before its children.
        root: What a root is here: `AT_AORTA` or `FARTHEST`.
        parts: (z, y, x) number of the connected piece of the mask, from 1.
        rooted: The pieces that have a root.
        specks: The pieces that are too short to be vessels.
        loops: (L, 3) array mm, where branches meet again.
    """

    branches: tuple[ArteryBranch, ...]
    root: str
    parts: NDArray[np.integer]
    rooted: frozenset[int]
    specks: frozenset[int]
    loops: NDArray[np.float64]

    def family(self, number: int) -> frozenset[int]:
        """A branch and all that leave it, directly or not."""
        found = {number}
        for branch in self.branches:  # parents come first
            if branch.parent in found:
                found.add(branch.number)
        return frozenset(found)

    @property
    def tips(self) -> tuple[ArteryBranch, ...]:
        """The terminal branches."""
        return tuple(branch for branch in self.branches if branch.terminal)


def make_tree(masks: KidneyMasks) -> ArteryTree | None:
    """The arteries of one kidney; None if there is no artery that is more than a speck."""
    artery = masks.artery
    if artery is None or not artery.any():
        return None
    spacing = masks.frame.spacing
    parts = number_pieces(artery)
    line = centerline_voxels(artery)
    wall = edt.edt(artery, anisotropy=spacing, black_border=False)
    away = edt.edt(~masks.organ, anisotropy=spacing, black_border=False)
    to_aorta = _to_aorta(masks.aorta, spacing)
    centre = {n: np.argwhere(line & (parts == n)) for n in range(1, int(parts.max()) + 1)}
    specks = frozenset(
        n for n, place in enumerate(find_objects(parts), 1) if _short(place, spacing)
    )
    real = {n: voxels for n, voxels in centre.items() if n not in specks}
    if not real:
        return None
    reach = {n: float(away[tuple(voxels.T)].max()) for n, voxels in real.items()}
    if to_aorta is None:
        limit = min(max(LEAST_TRUNK_MM, TRUNK_SHARE * max(reach.values())), max(reach.values()))
        rooted = frozenset(n for n in real if reach[n] >= limit)
    else:
        rooted = frozenset(n for n in real if to_aorta[parts == n].min() <= TOUCH_MM)
    branches: list[ArteryBranch] = []
    loops = []
    trunks = np.concatenate([centre[n] for n in rooted]) * spacing if rooted else np.zeros((0, 3))
    for piece, voxels in real.items():
        index = tuple(voxels.T)
        if piece not in rooted and len(trunks):  # it begins at the break
            root = int(cKDTree(trunks).query(voxels * spacing)[0].argmin())
        elif to_aorta is not None:
            root = int(to_aorta[index].argmin())
        else:
            root = _farthest_end(voxels, away[index])
        skeleton = make_skeleton(voxels, spacing, wall[index], root)
        inside = np.argwhere(parts == piece) * spacing
        branches += _branches(skeleton, wall[index], inside, spacing, piece, len(branches))
        loops.append(skeleton.loops)
    return ArteryTree(
        branches=tuple(branches),
        root=FARTHEST if to_aorta is None else AT_AORTA,
        parts=parts,
        rooted=rooted,
        specks=specks,
        loops=np.concatenate(loops),
    )


def _to_aorta(aorta: Mask | None, spacing: Spacing) -> NDArray[np.float32] | None:
    if aorta is None or not aorta.any():
        return None
    result: NDArray[np.float32] = edt.edt(~aorta, anisotropy=spacing, black_border=False)
    return result


def _farthest_end(voxels: NDArray[np.int64], away: NDArray) -> int:
    """Index of the end of a centerline that is farthest from the kidney.

    An end, since within the kidney the farthest voxel is the one in the widest stretch.
    """
    search = cKDTree(voxels)
    neighbours = search.query_ball_point(voxels, 1.8, return_length=True) - 1
    ends = np.flatnonzero(neighbours <= 1)
    if not len(ends):  # a ring
        return int(away.argmax())
    return int(ends[away[ends].argmax()])


def _short(place: tuple[slice, ...], spacing: Spacing) -> bool:
    size = np.array([s.stop - s.start for s in place]) * spacing
    return float(np.linalg.norm(size)) < SPECK_MM


def _branches(
    skeleton: Skeleton,
    wall: NDArray,
    inside: NDArray,
    spacing: Spacing,
    piece: int,
    numbered: int,
) -> list[ArteryBranch]:
    """The branches of one piece; numbers start after `numbered`."""
    stretches = list(_stretches(skeleton))
    continued = {parent for _, parent in stretches}
    raw = [skeleton.points[nodes] for nodes, _ in stretches]
    assigned = cKDTree(skeleton.points).query(inside)[1]
    for number, (nodes, _) in enumerate(stretches):
        if number not in continued:
            raw[number] = extend(raw[number], inside[assigned == nodes[-1]], float(wall[nodes[-1]]))
    paths = [smooth_path(path) for path in raw]
    owner = np.concatenate([np.full(len(path), i) for i, path in enumerate(paths)])
    places = np.concatenate([np.arange(len(path)) for path in paths])
    # a fork is a point of several stretches; its voxels count for the vessel that it ends
    nearest = cKDTree(np.concatenate(paths)).query(inside)[1]
    found: list[ArteryBranch] = []
    for number, ((nodes, parent), path) in enumerate(zip(stretches, paths, strict=True)):
        volumes = np.bincount(places[nearest[owner[nearest] == number]], minlength=len(path))
        middle = wall[nodes[len(nodes) // 4 :]]
        radius = tube_radius(
            path,
            volumes * float(np.prod(spacing)),
            float(wall[nodes[0]]) if parent is not None else 0.0,
            max(float(np.median(middle)) - min(spacing) / 2, min(spacing) / 2),
        )
        above = None if parent is None else found[parent]
        found.append(
            ArteryBranch(
                number=numbered + number + 1,
                parent=0 if above is None else above.number,
                generation=0 if above is None else above.generation + 1,
                piece=piece,
                path=path,
                length_mm=float(arc(path)[-1]),
                radius_mm=radius,
                terminal=True,
            )
        )
    parents = {branch.parent for branch in found}
    return [replace(branch, terminal=branch.number not in parents) for branch in found]


def extend(path: NDArray, beyond: NDArray, wall_mm: float) -> NDArray[np.float64]:
    """A centerline (K, 3) led on to the end of its vessel.

    Thinning shortens the ends of thin oblique vessels by several mm. The voxels that are nearest to the
    last point tell how far the vessel goes on.

    Args:
        path: Points towards the end, array mm.
        beyond: (N, 3) the voxels nearest to its last point.
        wall_mm: From the last point to the wall: so far the end stays from the vessel's end.
    """
    away = np.linalg.norm(beyond - path[-1], axis=1)
    if len(path) < 2 or away.max(initial=0.0) <= wall_mm:
        return path
    goal = beyond[away > away.max() - wall_mm].mean(axis=0) - path[-1]
    if np.linalg.norm(goal) < 1e-6:  # as far one way as the other: no way to lead it
        return path
    length = float(away.max()) - wall_mm
    step = float(np.linalg.norm(np.diff(path, axis=0), axis=1).mean())
    along = np.linspace(0, length, 1 + max(1, round(length / step)))[1:]
    more = path[-1] + goal / np.linalg.norm(goal) * along[:, None]
    return np.concatenate([path, more])


def _stretches(skeleton: Skeleton) -> Iterator[tuple[list[int], int | None]]:
    """Ways between forks (point indices) and the number of the way each continues, parents first."""
    below: dict[int, list[int]] = {}
    nodes = np.flatnonzero(skeleton.kept)
    for node in nodes[np.argsort(skeleton.way[nodes], kind="stable")]:
        below.setdefault(int(skeleton.above[node]), []).append(int(node))
    root = below[-1][0]
    # (way so far, continues which stretch)
    waiting: list[tuple[list[int], int | None]] = [([root], None)]
    count = 0
    while waiting:
        way, parent = waiting.pop(0)
        while len(below.get(way[-1], [])) == 1:
            way.append(below[way[-1]][0])
        children = below.get(way[-1], [])
        length = skeleton.way[way[-1]] - skeleton.way[way[0]]
        if children and parent is not None and length < FORK_MM:
            waiting = [([*way, child], parent) for child in children] + waiting
            continue
        if len(way) > 1 or not children:  # a ball thins to a point
            yield way, parent
            parent, count = count, count + 1
        waiting = [([way[-1], child], parent) for child in children] + waiting
