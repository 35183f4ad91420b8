"""How much prediction there will be, counted in windows: for budgets."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from renalplan.inference.placing import window_starts
from renalplan.plan import StagePlan
from renalplan.store import ItemArrays

STEP = 0.5  # of windows, as everywhere by default


def count_windows(stage: StagePlan, items: Iterable[ItemArrays]) -> int:
    """Windows that cover stored items of a stage whole; a network's runs to predict them."""
    return sum(
        prod(
            len(window_starts(max(size, patch), patch, STEP))
            for size, patch in zip(item.item.shape, stage.patch_size, strict=True)
        )
        for item in items
    )
