"""Lesions that are found, missed and false: drawn by hand, and against a slow count."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import label

from renalplan.errors import DatasetError
from renalplan.evaluation.detection import Detection, detect_lesions


def line(text: str) -> NDArray:
    return np.array([[[c == "#" for c in text]]])


def counts(reference: str, prediction: str) -> tuple[int, int, int]:
    found = detect_lesions(line(reference), line(prediction))
    return found.found, found.missed, found.false


@pytest.mark.parametrize(
    ("reference", "prediction", "expected"),
    [
        ("......", "......", (0, 0, 0)),
        ("##....", "......", (0, 1, 0)),
        ("......", "##....", (0, 0, 1)),
        ("###.##", "###.##", (2, 0, 0)),
        ("###...", "....##", (0, 1, 1)),
        ("###.##", "######", (1, 1, 0)),  # one blob over two lesions finds one
        ("######", "###.##", (1, 0, 1)),  # of two halves the larger finds it
        ("##########", "#.........", (1, 0, 0)),  # IoU 0.1
        ("###########", "#..........", (0, 1, 1)),  # IoU 1 / 11
        ("#.####", ".#####", (1, 1, 0)),
        # the middle one overlaps both lesions: the better pair of the first leaves it to the second
        ("##########..###", "#######.######.", (2, 0, 0)),
    ],
)
def test_lesions_by_hand(reference: str, prediction: str, expected: tuple[int, ...]) -> None:
    assert counts(reference, prediction) == expected


def test_parts_that_touch_by_a_corner_are_one_lesion() -> None:
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert detect_lesions(mask, mask) == Detection(found=1, missed=0, false=0)


def slow(reference: NDArray, prediction: NDArray) -> tuple[int, int, int]:
    """Pair the lesions of greatest IoU, take them away, and go on."""
    around = np.ones((3, 3, 3))
    parts = []
    for mask in (reference, prediction):
        numbers, count = label(mask, around)
        parts.append([numbers == n for n in range(1, count + 1)])
    truth, found = parts
    matched = 0
    while truth and found:
        iou = np.array([[(t & f).sum() / (t | f).sum() for f in found] for t in truth])
        if iou.max() < 0.1:
            break
        one, two = np.unravel_index(iou.argmax(), iou.shape)
        truth.pop(int(one)), found.pop(int(two))
        matched += 1
    return matched, len(truth), len(found)


@pytest.mark.parametrize("seed", range(12))
def test_lesions_are_as_a_slow_count_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.random((7, 8, 9)) < 0.05
    moved = np.roll(reference, int(rng.integers(0, 2)), axis=2)
    prediction = moved ^ (rng.random((7, 8, 9)) < 0.05)
    found = detect_lesions(reference, prediction)
    assert (found.found, found.missed, found.false) == slow(reference, prediction)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(DatasetError, match="shape"):
        detect_lesions(line("##"), line("###"))
