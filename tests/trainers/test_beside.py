"""Arrays beside stored items: read as patches, zero beyond the border, new ones seen at once."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from renalplan.errors import TrainingError
from renalplan.store import ItemArrays, StoredItem
from renalplan.trainers.beside import ArraysBeside

SHAPE = (4, 5, 6)
ITEM = ItemArrays(
    Path(),
    StoredItem(name="a.0", box=((0, 4), (0, 5), (0, 6)), shape=SHAPE, structures={}),
    "a",
)


def test_patches_reach_beyond_the_border_as_zeros(tmp_path: Path) -> None:
    values = np.arange(1, 121, dtype=np.uint8).reshape(SHAPE)
    beside = ArraysBeside(tmp_path / "phase", ".weights")
    beside.write(ITEM, values)
    assert (tmp_path / "phase" / "a.0.weights.b2nd").is_file()
    assert np.array_equal(beside.whole(ITEM), values)
    padded = np.pad(values, 2)
    found = beside(ITEM, (-2, 1, 3), (5, 3, 5))
    assert np.array_equal(found[0], padded[0:5, 3:6, 5:10])
    again = pickle.loads(pickle.dumps(beside))
    assert np.array_equal(again(ITEM, (0, 0, 0), SHAPE)[0], values)


def test_what_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    beside = ArraysBeside(tmp_path)
    for number in (1, 2):
        beside.write(ITEM, np.full(SHAPE, number, np.uint8))
        assert (beside(ITEM, (0, 0, 0), SHAPE) == number).all()


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"a\.0\.b2nd"):
        ArraysBeside(tmp_path)(ITEM, (0, 0, 0), SHAPE)
