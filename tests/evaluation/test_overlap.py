from __future__ import annotations

import numpy as np
import pytest

from renalplan.errors import DatasetError
from renalplan.evaluation.overlap import overlap

SPACING = (5.0, 2.0, 1.0)  # 10 mm3 = 0.01 ml


def mask(*inside: int) -> np.ndarray:
    result = np.zeros(12, bool)
    result[list(inside)] = True
    return result.reshape(2, 2, 3)


def test_scores_counted_by_hand() -> None:
    # reference 0 1 2 3, prediction 2 3 4: 2 shared, 1 only predicted, 2 only in the reference
    found = overlap(mask(0, 1, 2, 3), mask(2, 3, 4), SPACING)
    assert (found.true_positives, found.false_positives, found.false_negatives) == (2, 1, 2)
    assert found.dice == pytest.approx(4 / 7)
    assert found.iou == pytest.approx(2 / 5)
    assert found.sensitivity == pytest.approx(2 / 4)
    assert found.precision == pytest.approx(2 / 3)
    assert found.reference_ml == pytest.approx(0.04)
    assert found.predicted_ml == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("reference", "prediction", "score"),
    [
        (mask(), mask(), 1.0),
        (mask(), mask(1), 0.0),
        (mask(1), mask(), 0.0),
        (mask(1), mask(1), 1.0),
    ],
)
def test_empty_masks_have_stated_scores(
    reference: np.ndarray, prediction: np.ndarray, score: float
) -> None:
    found = overlap(reference, prediction, SPACING)
    assert [found.dice, found.iou, found.sensitivity, found.precision] == [score] * 4


def test_masks_may_be_numbers() -> None:
    assert overlap(mask(0, 1) * 7, mask(0, 1).astype(float), SPACING).dice == 1


def test_different_shapes_are_refused() -> None:
    with pytest.raises(DatasetError, match="shape"):
        overlap(mask(), mask()[:1], SPACING)
