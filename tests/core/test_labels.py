import numpy as np
import pytest

from renalplan.errors import DatasetError
from renalplan.labels import LabelScheme, scheme_from_json

PLAIN = {"background": 0, "left kidney": 1, "right kidney": 2, "tumour": 3}
REGIONS = {"background": 0, "both": [1, 2, 3], "left": [1, 3], "right": [2, 3], "tumour": 3}
MAP = np.array([[[0, 1], [2, 3]]])


def scheme(
    labels: dict, order: list[int] | None = None, mirrored: list[tuple[str, str]] | None = None
) -> LabelScheme:
    return scheme_from_json(labels, order, mirrored or [], "dataset.json")


def test_plain_labels_are_heads_in_the_order_of_their_values() -> None:
    found = scheme({"tumour": 2, "kidney": 1, "background": 0})
    assert found.names == ("background", "kidney", "tumour")
    assert found.values == ((0,), (1,), (2,))
    assert found.heads == 3
    assert not found.has_regions
    assert found.foreground == {"kidney": (1,), "tumour": (2,)}
    assert found.all_values == (0, 1, 2)


def test_a_list_of_one_value_is_no_region() -> None:
    assert scheme({"background": [0], "kidney": [1]}) == scheme({"background": 0, "kidney": 1})


def test_regions_are_heads_without_background() -> None:
    found = scheme(REGIONS, [1, 1, 2, 3])
    assert found.names == ("both", "left", "right", "tumour")
    assert found.values == ((1, 2, 3), (1, 3), (2, 3), (3,))
    assert found.has_regions
    assert found.all_values == (0, 1, 2, 3)
    assert list(found.foreground) == ["both", "left", "right", "tumour"]


def test_the_ignore_label_is_neither_head_nor_foreground() -> None:
    found = scheme({"background": 0, "kidney": 1, "ignore": 2})
    assert found.names == ("background", "kidney")
    assert found.ignore == 2
    assert found.all_values == (0, 1, 2)
    np.testing.assert_array_equal(found.foreground_mask(np.array([0, 1, 2])), [False, True, False])
    np.testing.assert_array_equal(found.to_classes(np.array([0, 1, 2])), [0, 1, -1])


def test_a_locating_stage_learns_structure_against_rest() -> None:
    found = scheme(PLAIN | {"ignore": 4}).as_foreground()
    assert found.names == ("background", "foreground")
    assert found.values == ((0,), (1, 2, 3))
    np.testing.assert_array_equal(found.to_classes(np.array([0, 1, 2, 3, 4])), [0, 1, 1, 1, -1])


def test_label_maps_become_overlapping_masks() -> None:
    masks = scheme(REGIONS, [1, 1, 2, 3]).to_regions(MAP)
    assert masks.shape == (4, 1, 2, 2)
    np.testing.assert_array_equal(masks[:, 0, 1, 1], [True, True, True, True])  # value 3
    np.testing.assert_array_equal(masks[:, 0, 0, 1], [True, True, False, False])  # value 1


def test_the_largest_head_decides_between_exclusive_classes() -> None:
    logits = np.array([[3.0, -1.0, 0.0], [1.0, -0.5, 0.0], [2.0, -2.0, 5.0]])  # (heads, voxels)
    found = scheme({"background": 0, "kidney": 1, "tumour": 2}).decide(logits)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, [0, 1, 2])


@pytest.mark.parametrize("structures", [1, 5, 300])
def test_of_equally_large_heads_the_first_counts(structures: int) -> None:
    found = scheme({"background": 0} | {f"s{i}": i for i in range(1, structures + 1)})
    outputs = np.random.default_rng(0).integers(0, 3, (structures + 1, 4, 5, 6)).astype(np.float32)
    outputs[-1, 0] = 7  # values beyond 8 bits are met
    np.testing.assert_array_equal(found.decide(outputs), outputs.argmax(0))


def test_regions_are_painted_in_order_where_likelier_than_not() -> None:
    found = scheme({"background": 0, "kidney": [1, 2], "tumour": 2}, [1, 2])
    probabilities = np.array([[0.2, 0.9, 0.9, 0.5], [0.1, 0.4, 0.6, 0.51]])
    np.testing.assert_array_equal(found.decide(probabilities), [0, 1, 2, 2])


def test_deciding_undoes_splitting_into_regions() -> None:
    labels = {"background": 0, "kidney": [1, 2], "tumour": 2}
    found = scheme(labels, [1, 2])
    values = np.array([[[0, 1, 2]]])
    np.testing.assert_array_equal(found.decide(found.to_regions(values)), values)


def test_heads_of_a_pair_change_places() -> None:
    found = scheme(PLAIN, mirrored=[("left kidney", "right kidney")])
    assert found.mirror_pairs == ((1, 2),)
    assert found.mirrored_heads() == (0, 2, 1, 3)


def test_without_pairs_every_head_stays() -> None:
    assert scheme(PLAIN).mirrored_heads() == (0, 1, 2, 3)


def test_regions_of_opposite_sides_change_places() -> None:
    labels = {"background": 0, "both": [1, 2], "left": 1, "right": [2]}
    found = scheme(labels, [1, 1, 2], mirrored=[("left", "right")])
    assert found.mirrored_heads() == (0, 2, 1)


@pytest.mark.parametrize(
    ("labels", "order", "sentence"),
    [
        ({"kidney": 1}, None, 'labels needs "background": 0'),
        ({"background": 1, "kidney": 0}, None, 'labels needs "background": 0'),
        ({"background": 0}, None, "nothing but background"),
        ({"background": 0, "a": 1, "b": 3}, None, r"without gaps, they are \[0, 1, 3\]"),
        ({"background": 0, "a": 2}, None, r"without gaps, they are \[0, 2\]"),
        ({"background": 0, "a": -1}, None, r"without gaps, they are \[-1, 0\]"),
        ({"background": 0, "a": 1, "b": 1}, None, "one value to two names"),
        ({"background": 0, "a": 1, "ignore": 3}, None, "must be the highest value, 2, it is 3"),
        ({"background": 0, "a": 1, "ignore": 1}, None, "must be the highest value, 2, it is 1"),
        ({"background": 0, "a": 1, "ignore": [2]}, None, "ignore must be one whole number"),
        ({"background": 0, "a": [], "b": 1}, None, "region without values"),
        ({"background": 0, "a": [1, 2]}, None, "regions_class_order needs one value for each"),
        ({"background": 0, "a": [1, 2], "b": 2}, [1], "needs one value for each of the 2 regions"),
        ({"background": 0, "a": [1, 2], "b": 2}, [1, 7], r"regions_class_order paints \[7\]"),
    ],
)
def test_labels_that_do_not_fit_together_are_refused(
    labels: dict, order: list[int] | None, sentence: str
) -> None:
    with pytest.raises(DatasetError, match=f"dataset.json: .*{sentence}"):
        scheme(labels, order)


def test_a_pair_must_name_labels() -> None:
    with pytest.raises(DatasetError, match="mirrored_labels names 'spleen'"):
        scheme(PLAIN, mirrored=[("left kidney", "spleen")])


def test_a_pair_must_not_name_a_region() -> None:
    with pytest.raises(DatasetError, match="'left', which is not a label with one value"):
        scheme(REGIONS, [1, 1, 2, 3], mirrored=[("left", "right")])


def test_a_region_without_its_opposite_is_refused_at_once() -> None:
    labels = {"background": 0, "both": [1, 2], "left": 1, "right": 2, "part": [2, 3], "cyst": 3}
    with pytest.raises(DatasetError, match="add the opposite region or remove the pair"):
        scheme(labels, [1, 1, 2, 2, 3], mirrored=[("left", "right")])
