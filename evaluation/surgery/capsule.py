"""Where a kidney's surface was before a tumor took its place: how far it reached in each direction.

A convex body is known by its support function: how far it reaches in every direction. Where the
outermost point of the parenchyma lies away from the lesions, the parenchyma reaches as far as the
kidney did. In the other directions the kidney reached at least as far as the parenchyma does now and
at most as far as parenchyma and lesions together; in between, an ellipsoid of a kidney's usual
proportions is fitted to what is known, and what the kidney has of its own is carried on smoothly (a
Gaussian process on the sphere of directions).

Chosen by measurement, see docs/surgery.md: on bodies whose intact surface is known the ellipsoid
alone, other reaches, and a process without an ellipsoid are worse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

# logarithms of a kidney's proportions, and how they spread: length over breadth and thickness
# (geometric mean), breadth over thickness, by the principal extents of KiTS19's tumor-free kidneys
PROPORTIONS = (np.log((1.9, 1.25)), 0.14)
MISFIT_MM = 1.5  # of an ellipsoid to a kidney
EVIDENCE = 5.0  # directions' worth: neighbours say the same, so all of them are not many witnesses
REACH = 0.7  # radians over which what is known of the surface tells about its neighbourhood
ROUGHNESS = 0.2  # of the known values, as a share of how far a kidney strays from the ellipsoid
STRAY_MM = 15.0  # one standard deviation, far from everything that is known
LEAST_KNOWN = 30  # directions; with fewer there is nothing to go on from

Directions = NDArray[np.float64]  # (N, 3) unit vectors


@dataclass(frozen=True, eq=False)
class Reach:
    """How far a kidney reached in some directions, mm from the origin of the coordinates.

    Attributes:
        likely: (N,) the best estimate.
        spread: (N,) its standard deviation.
    """

    likely: NDArray[np.float64]
    spread: NDArray[np.float64]


def estimate_reach(
    known: Directions, reach: NDArray, wanted: Directions, surface: NDArray
) -> Reach | None:
    """Carry on a kidney's support function.

    Args:
        known: Directions in which it is known.
        reach: (N,) mm, of `known`.
        wanted: Other directions.
        surface: (M, 3) points of the kidney's surface in mm, where the fit begins.

    Returns:
        For each wanted direction; None if too few are known.
    """
    if len(known) < LEAST_KNOWN:
        return None
    centre, axes = _fit(known, reach, surface)
    near, across = _alike(known, known), _alike(wanted, known)
    near[np.diag_indices_from(near)] += ROUGHNESS**2
    weights = np.linalg.solve(near, across.T)
    strays = reach - _ellipsoid(known, centre, axes)
    rest = np.clip(1 - (across.T * weights).sum(axis=0), 0, 1)
    return Reach(_ellipsoid(wanted, centre, axes) + strays @ weights, STRAY_MM * np.sqrt(rest))


def _alike(some: Directions, others: Directions) -> NDArray[np.float64]:
    """(N, M) covariances of directions, 1 for the same."""
    angles = np.arccos(np.clip(some @ others.T, -1, 1))
    result: NDArray[np.float64] = np.exp(-((angles / REACH) ** 2) / 2)
    return result


def _ellipsoid(directions: Directions, centre: NDArray, axes: NDArray) -> NDArray[np.float64]:
    """How far the ellipsoid {centre + axes @ x, |x| < 1} reaches."""
    result: NDArray[np.float64] = directions @ centre + np.linalg.norm(directions @ axes, axis=1)
    return result


def _fit(known: Directions, reach: NDArray, surface: NDArray) -> tuple[NDArray, NDArray]:
    """Centre (3,) and axes (3, 3) of the ellipsoid that fits best and has a kidney's proportions."""
    lower = np.tril_indices(3)
    weight = np.sqrt(EVIDENCE / len(known)) / MISFIT_MM
    usual, spread = PROPORTIONS

    def body(numbers: NDArray) -> tuple[NDArray, NDArray]:
        axes = np.zeros((3, 3))
        axes[lower] = numbers[3:]
        return numbers[:3], axes

    def misfit(numbers: NDArray) -> NDArray:
        centre, axes = body(numbers)
        squares = np.linalg.eigvalsh(axes @ axes.T)
        thick, broad, long = np.log(np.maximum(squares, 1e-6)) / 2
        unusual = (np.array([long - (broad + thick) / 2, broad - thick]) - usual) / spread
        off = (_ellipsoid(known, centre, axes) - reach) * weight
        return np.concatenate([off, unusual])

    # the points of an ellipsoid's surface have about a third of its squared half axes as variance
    start = np.linalg.cholesky(np.cov(surface.T) * 3 + np.eye(3))
    numbers = np.concatenate([surface.mean(axis=0), start[lower]])
    return body(least_squares(misfit, numbers, max_nfev=40).x)
