"""One connected piece of a vessel's mask -> a tree of centerline points without spurs.

The thinned mask is a graph of touching voxels; shortest ways from the root make a tree of it. What the
tree leaves out closes a loop: loops longer than `LOOP_MM` are told, smaller ones are the thinning's.
Thinning a thick vessel leaves spurs inside it: a twig that does not reach `TWIG_MM` beyond the vessel
it leaves is cut, the shortest first. Thinning eats solid bodies of even width, which then come whole
(see `evaluation.centerline`): of them the way from the root to the farthest voxel is taken.

Sources:
    Lee et al. 1994 (see `evaluation.centerline`): thinning.
    Dijkstra 1959, as scipy has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

TWIG_MM = 3.0
LOOP_MM = 16.0
NEIGHBOURS = 26  # a voxel with so many lies within a solid body


@dataclass(frozen=True, eq=False)
class Skeleton:
    """A tree of points; only points that `kept` marks belong to it.

    Attributes:
        points: (N, 3) array mm.
        above: (N,) index of the point towards the root; -1 at the root.
        way: (N,) mm along the tree from the root.
        kept: (N,) False for spurs.
        loops: (L, 3) where a way that is not in the tree closes a loop.
    """

    points: NDArray[np.float64]
    above: NDArray[np.int64]
    way: NDArray[np.float64]
    kept: NDArray[np.bool_]
    loops: NDArray[np.float64]


def make_skeleton(
    voxels: NDArray[np.int64], spacing: tuple[float, ...], radii: NDArray, root: int
) -> Skeleton:
    """Make a tree of a connected centerline.

    Args:
        voxels: (N, 3) indices of centerline voxels, connected by faces, edges or corners.
        spacing: mm along the axes.
        radii: (N,) mm from each to the vessel's wall.
        root: Index of the voxel that the tree grows from.
    """
    points = voxels * np.asarray(spacing)
    pairs = cKDTree(voxels).query_pairs(1.8, output_type="ndarray").astype(np.int64)
    lengths = np.linalg.norm(points[pairs[:, 0]] - points[pairs[:, 1]], axis=1)
    graph = coo_array((lengths, pairs.T), shape=(len(points),) * 2).tocsr()
    way, above = dijkstra(graph, directed=False, indices=root, return_predecessors=True)
    above = np.where(above < 0, -1, above).astype(np.int64)
    if len(pairs) and np.bincount(pairs.ravel()).max() == NEIGHBOURS:
        kept = np.isin(np.arange(len(points)), _ups(above, int(way.argmax())))
        return Skeleton(points, above, way, kept, np.zeros((0, 3)))
    loops = _loops(points, pairs, lengths, above, way)
    return Skeleton(points, above, way, _prune(above, way, radii), loops)


def _ups(above: NDArray, node: int) -> list[int]:
    """A point and all between it and the root."""
    found = []
    while node >= 0:
        found.append(node)
        node = int(above[node])
    return found


def _prune(above: NDArray, way: NDArray, radii: NDArray) -> NDArray[np.bool_]:
    """Which points remain when all spurs are cut."""
    kept = np.ones(len(above), bool)
    below = np.bincount(above[above >= 0], minlength=len(above))

    def twig(leaf: int) -> tuple[float, int]:
        """Length of the twig that ends in a leaf, and the fork it leaves (-1: none up to the root)."""
        node = int(above[leaf])
        while node >= 0 and below[node] < 2:
            node = int(above[node])
        return (way[leaf] - way[node], node) if node >= 0 else (np.inf, -1)

    twigs = {int(leaf): twig(int(leaf)) for leaf in np.flatnonzero(below == 0)}
    while True:
        spurs = [
            (length, leaf)
            for leaf, (length, fork) in twigs.items()
            if fork >= 0 and length < radii[fork] + TWIG_MM
        ]
        if not spurs:
            return kept
        _, leaf = min(spurs)
        fork, node = twigs.pop(leaf)[1], leaf
        while node != fork:
            kept[node] = False
            node = int(above[node])
        below[fork] -= 1
        for other, (_, other_fork) in twigs.items():
            if other_fork == fork:  # it may be a fork no longer
                twigs[other] = twig(other)


def _loops(
    points: NDArray, pairs: NDArray, lengths: NDArray, above: NDArray, way: NDArray
) -> NDArray[np.float64]:
    """Where two ways from the root meet that parted at least `LOOP_MM / 2` before; one a place."""
    first, second = pairs.T
    outside = (above[first] != second) & (above[second] != first)
    found: list[NDArray] = []
    for one, other, length in zip(first[outside], second[outside], lengths[outside], strict=True):
        least = (way[one] + way[other] + length - LOOP_MM) / 2  # a fork beyond it: a small loop
        ups = set()
        node = int(one)
        while node >= 0 and way[node] >= least:
            ups.add(node)
            node = int(above[node])
        node = int(other)
        while node >= 0 and way[node] >= least and node not in ups:
            node = int(above[node])
        if node in ups:
            continue
        place = (points[one] + points[other]) / 2
        if all(np.linalg.norm(place - known) > LOOP_MM / 2 for known in found):
            found.append(place)
    return np.array(found).reshape(-1, 3)
