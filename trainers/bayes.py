"""Bayes weakly supervised module: pseudo labels from two contrast phases and a network's opinion.

Cortex takes up contrast early and gives it away, medulla the other way round, so CTA minus CTU is
bright in cortex and dark in medulla: right places with ragged shapes. The network's probabilities
have smooth shapes in wrong places. Bayes' rule joins the two.

Sources:
    [CPNet] Cycle Prototype Network, section 2.2 and equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from renalplan.geometry import Spacing

UNKNOWN = -1  # no prior opinion
BLUR_MM = 0.7  # of the Gaussian after the 3x3x3 median; [CPNet] says "filters" and no more
CLOSING_MM = 3.0
URINE_HU = -120.0  # of CTA - CTU: medulla lies 20 to 40 below 0, contrast in the calyces far deeper
THRESHOLD_RANGE_HU = (0.0, 100.0)  # between medulla and cortex


@dataclass(frozen=True)
class Compartments:
    """Channel numbers of the network's classes.

    Attributes:
        cortex: Which is the cortex.
        medulla: Which is the medulla.
        background: Which is neither.
    """

    cortex: int
    medulla: int
    background: int = 0


def correct_pseudo_labels(
    likelihood: NDArray[np.floating], prior_class: NDArray[np.integer], omega: float = 0.05
) -> NDArray[np.float64]:
    """Posterior class probabilities [CPNet, Eq. 2].

    The class that the prior names has p_correct = 1/C + omega, each other one
    p_wrong = (1 - p_correct) / (C - 1); C is 3 in the paper. Without an opinion all have 1/C. The
    posterior of class k is p_k l_k / sum_j p_j l_j. The printed two-term form is this one with the
    wrong classes taken together: l_wrong is then the sum of their likelihoods.

    Args:
        likelihood: (C, z, y, x), the network's probabilities; they sum to 1 over the classes.
        prior_class: (z, y, x), the class the prior names, `UNKNOWN` where it has no opinion.
        omega: How much more likely the prior's class is than chance. 0 trusts the network alone,
            1 - 1/C the prior alone.

    Returns:
        (C, z, y, x), summing to 1 over the classes. Where prior and likelihood exclude each other
        (omega = 1 - 1/C and a likelihood of 0), the prior's class.

    Raises:
        ValueError: omega is below 0 or 1/C + omega above 1; shapes or classes that do not fit.
    """
    classes = likelihood.shape[0]
    right = 1 / classes + omega
    if omega < 0 or right > 1 + 1e-12:
        raise ValueError(
            f"omega must be between 0 and {1 - 1 / classes:.4g} for {classes} classes, it is {omega}"
        )
    if prior_class.shape != likelihood.shape[1:]:
        raise ValueError(
            f"a prior of shape {prior_class.shape} for likelihoods of {likelihood.shape}"
        )
    if prior_class.size and not UNKNOWN <= prior_class.min() <= prior_class.max() < classes:
        raise ValueError(f"prior classes must be {UNKNOWN} to {classes - 1}")
    wrong = max(0.0, (1 - right) / (classes - 1))
    named = np.arange(classes).reshape(-1, 1, 1, 1) == prior_class
    prior = np.where(named, right, wrong)
    prior[:, prior_class == UNKNOWN] = 1 / classes
    joint = prior * likelihood
    total = joint.sum(0)
    return np.where(total > 0, joint / np.where(total > 0, total, 1), named.astype(float))


def kidney_of(labels: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.bool_]:
    """A predicted kidney without gaps between its compartments: closed by 3 mm, holes filled.

    Args:
        labels: (z, y, x), cortex or medulla.
        spacing: mm along the same axes.
    """
    reach = [int(CLOSING_MM // s) for s in spacing]
    ball = _ball(reach, spacing)
    padded = np.pad(labels, [(r, r) for r in reach])  # closing must not erode from the border
    closed = ndimage.binary_closing(padded, ball)
    inner = tuple(slice(r, r + n) for r, n in zip(reach, labels.shape, strict=True))
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(closed[inner])
    return filled


def prior_classes(
    arterial: NDArray[np.floating],
    excretory: NDArray[np.floating],
    kidney: NDArray[np.bool_],
    spacing: Spacing,
    classes: Compartments,
) -> NDArray[np.int8]:
    """What the difference of two contrast phases says inside a kidney.

    Both images are filtered (median 3x3x3, Gaussian of 0.7 mm) and subtracted. Above Otsu's
    threshold of the kidney's voxels lies cortex, below it medulla, far below contrast medium in the
    collecting system, which is background.

    Args:
        arterial: (z, y, x) HU of the CTA.
        excretory: (z, y, x) HU of the CTU on the same grid, registered to it.
        kidney: (z, y, x), where to look.
        spacing: mm along the same axes.
        classes: Channel numbers.

    Returns:
        (z, y, x): channel numbers inside the kidney, `UNKNOWN` outside.
    """
    difference = _filtered(arterial, spacing) - _filtered(excretory, spacing)
    result = np.full(kidney.shape, UNKNOWN, np.int8)
    tissue = kidney & (difference > URINE_HU)
    result[kidney] = classes.background
    values = difference[tissue]
    if values.size == 0:
        return result
    threshold = np.clip(threshold_otsu(values), *THRESHOLD_RANGE_HU) if np.ptp(values) else 0.0
    result[tissue] = np.where(values > threshold, classes.cortex, classes.medulla)
    return result


def _filtered(image: NDArray[np.floating], spacing: Spacing) -> NDArray[np.float32]:
    median = ndimage.median_filter(image.astype(np.float32), size=3, mode="nearest")
    sigma = [BLUR_MM / s for s in spacing]
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(median, sigma, mode="nearest")
    return blurred


def _ball(reach: list[int], spacing: Spacing) -> NDArray[np.bool_]:
    places = np.meshgrid(
        *(np.arange(-r, r + 1) * s for r, s in zip(reach, spacing, strict=True)), indexing="ij"
    )
    inside: NDArray[np.bool_] = sum(p**2 for p in places) <= CLOSING_MM**2
    return inside
