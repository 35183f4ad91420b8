from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
from numpy.typing import NDArray

from renalplan.errors import TrainingError
from renalplan.labels import LabelScheme
from renalplan.store import (
    ANNOTATED,
    PLACES_PER_STRUCTURE,
    ItemArrays,
    StoredCase,
    find_places,
    has_files,
    open_array,
    open_items,
    read_case,
    write_array,
    write_case,
    write_item,
)

SCHEME = LabelScheme(names=("background", "kidney", "tumour"), values=((0,), (1,), (2,)))
SHAPE = (8, 10, 12)
BOX = ((0, 8), (0, 10), (0, 12))


@pytest.fixture
def image() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


@pytest.fixture
def stored(tmp_path: Path, image: NDArray, two_structures: NDArray) -> ItemArrays:
    item = write_item(tmp_path, "case.0", image, two_structures, BOX, SCHEME)
    return ItemArrays(tmp_path, item, "case")


def test_an_image_comes_back_within_half_precision(stored: ItemArrays, image: NDArray) -> None:
    assert stored.image.shape == (2, *SHAPE)
    # 11 bits of mantissa: half of 2^-10 of the value, at most
    np.testing.assert_allclose(stored.image[:], image, rtol=2**-11, atol=1e-6)


def test_labels_come_back_as_they_were(stored: ItemArrays, two_structures: NDArray) -> None:
    assert stored.labels.dtype == np.uint8
    np.testing.assert_array_equal(stored.labels[:][0], two_structures)


def test_an_item_knows_its_shape_and_voxels(stored: ItemArrays) -> None:
    assert stored.item.shape == SHAPE
    assert stored.item.box == BOX
    assert stored.item.structures == {"kidney": 27, "tumour": 8}


def test_nothing_unfinished_is_left(stored: ItemArrays) -> None:
    names = sorted(path.name for path in stored.folder.iterdir())
    assert names == ["case.0.image.b2nd", "case.0.labels.b2nd", "case.0.places.npz"]


def test_a_patch_inside_is_cut_out(stored: ItemArrays, two_structures: NDArray) -> None:
    image, labels = stored.patch((1, 2, 3), (4, 4, 6))
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, stored.image[:, 1:5, 2:6, 3:9])
    np.testing.assert_array_equal(labels[0], two_structures[1:5, 2:6, 3:9])


def test_an_image_patch_is_a_patch_without_its_labels(stored: ItemArrays) -> None:
    for start, size in (((1, 2, 3), (4, 4, 6)), ((-2, 2, 9), (4, 4, 5))):
        expected, _ = stored.patch(start, size)
        alone = ItemArrays(stored.folder, stored.item, "case")
        np.testing.assert_array_equal(alone.image_patch(start, size), expected)
        assert alone.image_patch(start, size).dtype == np.float32
    for path in (*stored.folder.glob("*.labels.b2nd"), *stored.folder.glob("*.npz")):
        path.unlink()
    alone = ItemArrays(stored.folder, stored.item, "case")
    assert alone.image_patch((0, 0, 0), SHAPE).shape == (2, *SHAPE)


def test_a_patch_beyond_the_border_is_zero(stored: ItemArrays, two_structures: NDArray) -> None:
    image, labels = stored.patch((-2, 2, 9), (4, 4, 5))
    assert image.shape == (2, 4, 4, 5)
    assert labels.shape == (1, 4, 4, 5)
    inside = (slice(2, 4), slice(0, 4), slice(0, 3))  # z from 0, x up to 12
    np.testing.assert_array_equal(image[:, *inside], stored.image[:, 0:2, 2:6, 9:12])
    np.testing.assert_array_equal(labels[0, *inside], two_structures[0:2, 2:6, 9:12])
    image[:, *inside] = 0
    assert not image.any()


def test_a_patch_larger_than_the_item_holds_all_of_it(stored: ItemArrays) -> None:
    image, labels = stored.patch((-4, -3, -2), (16, 16, 16))
    np.testing.assert_array_equal(image[:, 4:12, 3:13, 2:14], stored.image[:])
    assert (labels > 0).sum() == 27 + 8


@pytest.mark.parametrize("start", [(100, 0, 0), (-50, 0, 0), (8, 0, 0), (-4, 0, 0)])
def test_a_patch_outside_is_zero(stored: ItemArrays, start: tuple[int, int, int]) -> None:
    image, labels = stored.patch(start, (4, 4, 4))
    assert image.shape == (2, 4, 4, 4)
    assert labels.shape == (1, 4, 4, 4)
    assert not image.any()
    assert not labels.any()


def test_places_hold_all_voxels_of_their_structure(
    stored: ItemArrays, two_structures: NDArray
) -> None:
    assert sorted(stored.places) == ["kidney", "tumour"]
    np.testing.assert_array_equal(stored.places["kidney"], np.argwhere(two_structures == 1))
    np.testing.assert_array_equal(stored.places["tumour"], np.argwhere(two_structures == 2))


def test_of_large_structures_some_places_are_drawn_always_the_same() -> None:
    labels = np.ones((30, 30, 30), np.uint8)
    labels[0] = 0
    places, counts = find_places(labels, SCHEME)
    assert counts == {"kidney": 29 * 900, "tumour": 0}
    assert "tumour" not in places
    found = places["kidney"]
    assert len({tuple(place) for place in found}) == PLACES_PER_STRUCTURE
    assert (found[:, 0] > 0).all()
    np.testing.assert_array_equal(found, find_places(labels, SCHEME)[0]["kidney"])


def test_regions_that_overlap_have_places_each() -> None:
    scheme = LabelScheme(names=("all", "tumour"), values=((1, 2), (2,)), region_values=(1, 2))
    places, counts = find_places(np.array([[[0, 1, 2]]]), scheme)
    assert counts == {"all": 2, "tumour": 1}
    np.testing.assert_array_equal(places["all"], [[0, 0, 1], [0, 0, 2]])


def test_with_an_ignore_label_the_annotated_voxels_are_known() -> None:
    scheme = LabelScheme(names=("background", "kidney"), values=((0,), (1,)), ignore=2)
    places, counts = find_places(np.array([[[0, 1, 2, 2]]]), scheme)
    assert counts == {"kidney": 1, ANNOTATED: 2}
    np.testing.assert_array_equal(places[ANNOTATED], [[0, 0, 0], [0, 0, 1]])


def test_an_item_without_labels_is_an_image_only(tmp_path: Path, image: NDArray) -> None:
    item = write_item(tmp_path, "case.0", image, None, BOX, SCHEME)
    assert item.structures == {}
    assert [path.name for path in tmp_path.iterdir()] == ["case.0.image.b2nd"]
    assert has_files(tmp_path, item)


def test_a_missing_file_is_noticed(stored: ItemArrays) -> None:
    assert has_files(stored.folder, stored.item)
    (stored.folder / "case.0.places.npz").unlink()
    assert not has_files(stored.folder, stored.item)
    with pytest.raises(TrainingError, match=r"case.0.places.npz cannot be read"):
        _ = stored.places


def test_damaged_places_are_named(stored: ItemArrays) -> None:
    (stored.folder / "case.0.places.npz").write_bytes(b"PK\x03\x04garbage")
    with pytest.raises(TrainingError, match=r"case.0.places.npz cannot be read"):
        _ = stored.places


@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_file_that_is_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "case.0.image.b2nd"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"case.0.image.b2nd cannot be opened"):
        open_array(path)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"gone.b2nd cannot be opened .* run renalplan_plan"):
        open_array(tmp_path / "gone.b2nd")


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_an_array_cut_off_gives_no_patch(stored: ItemArrays, part: float) -> None:
    path = stored.folder / "case.0.image.b2nd"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(TrainingError, match=r"case.0.*b2nd"):
        stored.patch((0, 0, 0), SHAPE)


def test_an_array_with_damaged_chunks_gives_no_patch(stored: ItemArrays) -> None:
    path = stored.folder / "case.0.image.b2nd"
    content = bytearray(path.read_bytes())
    # as after a power cut; a few wrong bytes among the values are nobody's to notice
    hole = slice(len(content) // 4, len(content) * 3 // 4)
    content[hole] = bytes(len(content[hole]))
    path.write_bytes(bytes(content))
    with pytest.raises(TrainingError, match=r"case.0.*b2nd is damaged"):
        stored.patch((0, 0, 0), SHAPE)


def test_a_patch_reads_no_chunk_that_it_does_not_touch(tmp_path: Path) -> None:
    path = tmp_path / "three.b2nd"  # three chunks of 64 voxels, one after the other
    array = np.random.default_rng(0).normal(size=(1, 16, 16, 192)).astype(np.float16)
    write_array(path, array)
    content = bytearray(path.read_bytes())
    third = slice(len(content) * 3 // 4, len(content) * 9 // 10)
    content[third] = bytes(len(content[third]))
    path.write_bytes(bytes(content))
    np.testing.assert_array_equal(open_array(path)[..., :128], array[..., :128])
    try:
        damaged = open_array(path)[..., 128:]
    except RuntimeError:
        return
    assert not np.array_equal(damaged, array[..., 128:])


def test_a_plain_chunk_of_bytes_is_no_array(tmp_path: Path) -> None:
    path = tmp_path / "case.0.image.b2nd"
    blosc2.SChunk(data=bytes(1000), urlpath=str(path), mode="w")
    with pytest.raises(TrainingError, match=r"case.0.image.b2nd is not a plain array"):
        open_array(path)


def test_a_stored_expression_is_refused_and_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operand = blosc2.asarray(np.ones((4, 4, 4)), urlpath=str(tmp_path / "one.b2nd"), mode="w")
    path = tmp_path / "case.0.image.b2nd"
    (operand + 1).save(urlpath=str(path))
    for method in ("compute", "__getitem__"):
        monkeypatch.setattr(blosc2.LazyExpr, method, lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(TrainingError, match=r"case.0.image.b2nd"):
        open_array(path)


def add_one(inputs: tuple, output: NDArray, offset: tuple) -> None:
    output[:] = inputs[0] + 1


def test_a_stored_function_is_refused(tmp_path: Path) -> None:
    operand = blosc2.asarray(np.ones((4, 4, 4)), urlpath=str(tmp_path / "one.b2nd"), mode="w")
    path = tmp_path / "case.0.image.b2nd"
    blosc2.lazyudf(add_one, (operand,), np.float64).save(urlpath=str(path))
    with pytest.raises(TrainingError, match=r"case.0.image.b2nd"):
        open_array(path)


def test_arrays_beyond_one_chunk_come_back(tmp_path: Path) -> None:
    array = np.arange(70 * 65 * 3, dtype=np.int32).reshape(1, 70, 65, 3)
    write_array(tmp_path / "a.b2nd", array)
    found = open_array(tmp_path / "a.b2nd")
    assert found.chunks == (1, 64, 64, 3)
    np.testing.assert_array_equal(found[:], array)


@pytest.fixture
def complete(stored: ItemArrays) -> StoredCase:
    case = StoredCase(
        case="case",
        patient="p",
        inputs="i",
        recipe="r",
        spacing=(1.0, 1.0, 1.0),
        items=(stored.item,),
    )
    write_case(stored.folder, case)
    return case


def test_a_case_comes_back_from_its_sidecar(complete: StoredCase, stored: ItemArrays) -> None:
    assert read_case(stored.folder, "case") == complete
    assert read_case(stored.folder, "other") is None


def test_items_of_a_case_are_opened(complete: StoredCase, stored: ItemArrays) -> None:
    assert open_items(stored.folder, ("case",)) == [stored]
    with pytest.raises(
        TrainingError, match=r"other is not in .* run renalplan_plan_and_preprocess"
    ):
        open_items(stored.folder, ("case", "other"))


def test_a_damaged_sidecar_is_named(
    complete: StoredCase, stored: ItemArrays, make_scan: Callable[..., NDArray]
) -> None:
    (stored.folder / "case.json").write_text('{"case": "case"')
    with pytest.raises(TrainingError, match=r"case.json is not valid JSON: line 1"):
        read_case(stored.folder, "case")
