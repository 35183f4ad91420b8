"""Surfaces -> a picture of them in 3-D, for paper and for browsers without WebGL; in numpy alone.

Every triangle that faces the viewer is strewn with points, the nearest point of each pixel is seen, and
what is translucent is laid over what is behind it. Seen from infinitely far, so sizes compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from numpy.typing import NDArray

FINER = 2  # samples along a pixel's edge
POINTS = 1.6  # on a sample, on average; each covers four samples
LIGHT = np.array([-0.35, 0.45, 0.82])  # right, up, towards the viewer
AMBIENT = 0.45
MARGIN = 0.04  # of the picture's longer side


@dataclass(frozen=True)
class Body:
    """A surface in LPS mm, its colour (0 to 255), and its opacity (0 to 1)."""

    surface: trimesh.Trimesh
    colour: tuple[int, int, int]
    opacity: float


@dataclass(frozen=True)
class View:
    """A direction to look in, by the screen's axes as LPS unit vectors."""

    name: str
    right: tuple[float, float, float]
    up: tuple[float, float, float]

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3) rows: to the right, up, towards the viewer."""
        return np.stack([self.right, self.up, np.cross(self.right, self.up)])


FRONT = View("from the front", (1, 0, 0), (0, 0, 1))
BACK = View("from behind", (-1, 0, 0), (0, 0, 1))


def draw(
    bodies: Sequence[Body], view: View, size: tuple[int, int], ground: tuple[int, int, int]
) -> NDArray[np.uint8]:
    """Draw bodies so that they fill a picture.

    Args:
        bodies: At least one.
        view: From where.
        size: Pixels (height, width).
        ground: Colour behind everything.

    Returns:
        (height, width, 3) uint8.
    """
    height, width = (n * FINER for n in size)
    axes = view.axes
    corners = np.concatenate([body.surface.vertices for body in bodies]) @ axes.T
    low, high = corners.min(axis=0)[:2], corners.max(axis=0)[:2]
    room = np.array([width, height]) * (1 - 2 * MARGIN)
    scale = float((room / np.maximum(high - low, 1e-6)).min())
    shift = np.array([width, height]) / 2 - scale * (low + high) / 2
    layers = [_layer(body, axes, scale, shift, (height, width)) for body in bodies]
    depths = np.stack([depth for depth, _ in layers])
    picture = np.broadcast_to(np.array(ground, float), (height * width, 3)).copy()
    for rank in np.argsort(depths, axis=0):  # the farthest first
        for index, body in enumerate(bodies):
            seen = (rank == index) & np.isfinite(depths[index])
            light = layers[index][1][seen, None]
            picture[seen] += body.opacity * (light * body.colour - picture[seen])
    fine = picture.reshape(size[0], FINER, size[1], FINER, 3)
    result: NDArray[np.uint8] = np.clip(fine.mean(axis=(1, 3)), 0, 255).astype(np.uint8)
    return result


def _layer(
    body: Body, axes: NDArray, scale: float, shift: NDArray, size: tuple[int, int]
) -> tuple[NDArray, NDArray]:
    """Depth (larger is nearer, -inf where nothing is) and brightness of each pixel, both flat."""
    height, width = size
    points = body.surface.vertices @ axes.T
    places = points[:, :2] * scale + shift
    normals = body.surface.vertex_normals @ axes.T
    faces = body.surface.faces
    first, second, third = (places[faces[:, i]] for i in range(3))
    areas = ((second - first)[:, 0] * (third - first)[:, 1]) / 2
    areas -= ((second - first)[:, 1] * (third - first)[:, 0]) / 2
    counts = np.where(areas > 0, np.ceil(np.maximum(areas, 0) * POINTS), 0).astype(int)
    chosen = np.repeat(np.arange(len(faces)), counts)
    shares = _shares(len(chosen))
    corners = faces[chosen]
    at = np.einsum("nk,nkc->nc", shares, places[corners])
    depth = np.einsum("nk,nk->n", shares, points[corners, 2])
    facing = np.einsum("nk,nkc->nc", shares, normals[corners])
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
    diffuse = np.clip(facing @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    light = AMBIENT + (1 - AMBIENT) * diffuse
    order = np.argsort(depth)
    at, depth, light = np.floor(at[order]).astype(int), depth[order], light[order]
    nearest = np.full(height * width, -np.inf)
    bright = np.zeros(height * width)
    for right, up in ((1, 1), (0, 1), (1, 0), (0, 0)):
        column, row = at[:, 0] + right, height - 1 - at[:, 1] - up
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        pixel = row[inside] * width + column[inside]
        layer = np.full(height * width, -np.inf)
        layer[pixel] = depth[inside]  # of several, the last one stays: the nearest
        shade = np.zeros(height * width)
        shade[pixel] = light[inside]
        nearer = layer > nearest
        nearest[nearer], bright[nearer] = layer[nearer], shade[nearer]
    return nearest, bright


def _shares(count: int) -> NDArray[np.float64]:
    """(count, 3) barycentric coordinates, spread evenly over a triangle."""
    # Roberts' sequence: the generalised golden ratio of two dimensions
    ratio = 1.32471795724474602596
    steps = np.arange(1, count + 1)[:, None] * (1 / ratio, 1 / ratio**2) % 1
    folded = steps.sum(axis=1) > 1
    steps[folded] = 1 - steps[folded]
    return np.column_stack([steps, 1 - steps.sum(axis=1)])
