"""One pass over a field: the label map, and whatever else is made of the same probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from renalplan.inference.fields import ProbabilityField
from renalplan.labels import LabelScheme


class SlabTaker(Protocol):
    """Makes something of a scan's probabilities, some slices at a time."""

    def add(
        self,
        start: int,
        stop: int,
        probabilities: Tensor,
        disagreement: Tensor | None,
        labels: NDArray,
    ) -> None:
        """Take slices start to stop: probabilities (heads, n, y, x), the others (n, y, x)."""
        ...


def decide_slabs(
    field: ProbabilityField, scheme: LabelScheme, takers: Sequence[SlabTaker] = ()
) -> NDArray:
    """The label map (z, y, x) that the probabilities decide on; takers see them on the way."""
    labels = np.zeros(field.shape, np.uint8 if max(scheme.all_values) < 256 else np.uint16)
    for start, stop in field.slabs():
        probabilities, disagreement = field.detailed(start, stop)
        labels[start:stop] = scheme.decide(probabilities.numpy())
        for taker in takers:
            taker.add(start, stop, probabilities, disagreement, labels[start:stop])
    return labels
