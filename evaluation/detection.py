"""Which lesions were found: connected parts of the reference against those of the prediction.

A lesion is a part of a mask that is connected by faces, edges or corners. A predicted lesion finds a
reference lesion if they overlap with an IoU of `LEAST_IOU` or more; each finds one at most and each
is found by one at most, the pairs of greatest IoU first. So one predicted blob over two tumors finds
one and misses the other, and of two halves of a predicted tumor one is a false lesion. Parts of every
size count.

Sources:
    Maier-Hein et al. 2024, "Metrics reloaded", Nature Methods 21:195: detection by IoU, greedy
    one-to-one matching by score, and a low threshold where finding matters more than outlines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from renalplan.evaluation.overlap import require_same_shape
from renalplan.pieces import number_pieces

LEAST_IOU = 0.1


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Lesions of one case.

    Attributes:
        found: Reference lesions that a predicted one finds.
        missed: Reference lesions that none finds.
        false: Predicted lesions that find none.
    """

    found: int
    missed: int
    false: int


def detect_lesions(
    reference: NDArray, prediction: NDArray, least_iou: float = LEAST_IOU
) -> Detection:
    """Count the lesions that were found, missed, and seen where none is.

    Args:
        reference: (z, y, x) bool, or numbers where nonzero means inside.
        prediction: The same shape.
        least_iou: IoU from which on a predicted lesion finds a reference lesion, above 0.

    Raises:
        DatasetError: the masks differ in shape.
    """
    require_same_shape(reference, prediction)
    truth, found = (number_pieces(mask) for mask in (reference, prediction))
    true_sizes, found_sizes = (np.bincount(parts[parts > 0]) for parts in (truth, found))
    shared = (truth > 0) & (found > 0)
    parts = int(found.max(initial=0)) + 1
    pairs, sizes = np.unique(
        truth[shared].astype(np.int64) * parts + found[shared], return_counts=True
    )
    iou = sizes / (true_sizes[pairs // parts] + found_sizes[pairs % parts] - sizes)
    taken_true: set[int] = set()
    taken_found: set[int] = set()
    for index in np.argsort(-iou, kind="stable"):
        true, part = divmod(int(pairs[index]), parts)
        if iou[index] >= least_iou and true not in taken_true and part not in taken_found:
            taken_true.add(true)
            taken_found.add(part)
    matched = len(taken_true)
    return Detection(
        found=matched,
        missed=int(truth.max(initial=0)) - matched,
        false=parts - 1 - matched,
    )
