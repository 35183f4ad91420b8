"""Stored scans with other labels: the images stay, the labels are the phase's, never the store's."""

import numpy as np
import pytest

from renalplan.errors import TrainingError
from renalplan.labels import LabelScheme
from renalplan.store import ItemArrays, StoredItem, write_item
from renalplan.trainers.relabelled import is_relabelled, relabel, relabelled
from renalplan.trainers.sampling import PatchSource

SCHEME = LabelScheme(names=("background", "tumor"), values=((0,), (1,)))
SHAPE = (6, 7, 8)


@pytest.fixture
def item(tmp_path) -> ItemArrays:
    """A stored item whose own labels are 1 everywhere."""
    store = tmp_path / "store"
    store.mkdir()
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)
    box = tuple((0, n) for n in SHAPE)
    stored = write_item(store, "case.0", image, np.ones(SHAPE, np.int16), box, SCHEME)
    return ItemArrays(store, stored, "case")


def test_new_labels_with_the_old_images(item, tmp_path):
    made = np.zeros(SHAPE, np.int16)
    made[2, 3, 4] = 1
    assert not is_relabelled(item, tmp_path)
    relabel(item, tmp_path, made, SCHEME)
    assert is_relabelled(item, tmp_path)
    other = relabelled(item, tmp_path)
    image, labels = other.patch((0, 0, 0), SHAPE)
    np.testing.assert_array_equal(image, item.image_patch((0, 0, 0), SHAPE))
    np.testing.assert_array_equal(labels[0], made)
    assert other.item.structures == {"tumor": 1}
    np.testing.assert_array_equal(other.places["tumor"], [[2, 3, 4]])
    assert item.labels[0].sum() == np.prod(SHAPE), "the item itself is as it was"


def test_sampling_follows_the_new_labels_when_the_old_ones_are_gone(item, tmp_path):
    made = np.zeros(SHAPE, np.int16)
    made[5, 6, 7] = 1
    relabel(item, tmp_path, made, SCHEME)
    for kind in ("labels.b2nd", "places.npz"):
        (item.folder / f"case.0.{kind}").unlink()
    source = PatchSource(
        items=(relabelled(item, tmp_path),),
        patch=(2, 2, 2),
        margin=(0, 0, 0),
        batch_size=1,
        foreground_share=1.0,
        transform=None,
        seed=0,
    )
    for step in range(10):
        assert source.batch(step)["labels"].sum() == 1


def test_missing_labels_are_named(item, tmp_path):
    with pytest.raises(TrainingError, match=r"case\.0\.json"):
        relabelled(item, tmp_path)


def test_a_stored_item_without_labels_can_get_some(tmp_path):
    stored: StoredItem = write_item(
        tmp_path, "un.0", np.zeros((1, *SHAPE), np.float32), None, ((0, 6), (0, 7), (0, 8)), SCHEME
    )
    item = ItemArrays(tmp_path, stored, "un")
    folder = tmp_path / "pseudo"
    folder.mkdir()
    relabel(item, folder, np.ones(SHAPE, np.int16), SCHEME)
    assert relabelled(item, folder).item.structures == {"tumor": int(np.prod(SHAPE))}
