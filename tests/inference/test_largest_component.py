"""The largest piece alone is left, with 18 neighbours a voxel, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.files import write_json
from renalplan.inference.fields import ProbabilityField
from renalplan.inference.predictor import Predictor
from renalplan.inference.segmenters.largest_component import (
    LargestComponentField,
    report,
    smaller_pieces,
)
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder, SegmenterSpec

SCHEME = LabelScheme(names=("background", "tumor"), values=((0,), (1,)))
REGIONS = LabelScheme(names=("tumor",), values=((1, 2),), region_values=(1,))


class Given(ProbabilityField):
    """Probabilities as they are given, (heads, z, y, x)."""

    def __init__(self, values: NDArray) -> None:
        self.values = torch.from_numpy(values.astype(np.float32))
        self.shape = values.shape[1:]  # type: ignore[assignment]
        self.heads = len(values)

    def slab(self, start: int, stop: int) -> torch.Tensor:
        return self.values[:, start:stop].clone()


def by_scipy(mask: NDArray) -> NDArray:
    pieces, count = ndimage.label(mask, ndimage.generate_binary_structure(3, 2))
    if count < 2:
        return np.zeros_like(mask)
    sizes = ndimage.sum_labels(mask, pieces, range(1, count + 1))
    return mask & (pieces != 1 + np.argmax(sizes))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.08, 0.2, 1.0])
def test_pieces_are_scipy_s_with_faces_and_edges(share: float) -> None:
    mask = np.random.default_rng(4).random((12, 13, 14)) < share
    found = smaller_pieces(mask)
    assert found.sum() == by_scipy(mask).sum()
    kept = mask & ~found
    assert ndimage.label(kept, ndimage.generate_binary_structure(3, 2))[1] == min(1, mask.sum())


def test_edges_connect_and_corners_do_not() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, :2] = True
    mask[1, 1, 1] = True  # by an edge
    mask[2, 2, 2] = True  # by a corner
    assert np.argwhere(smaller_pieces(mask)).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("scheme", [SCHEME, REGIONS])
def test_what_is_removed_is_background_for_certain_and_the_rest_stays(scheme: LabelScheme) -> None:
    tumor = np.random.default_rng(0).random((9, 10, 11)) * 0.5
    tumor[2:5, 2:5, 2:5] = 0.9
    tumor[7:9, 7:9, 7:9] = 0.8
    values = np.stack([1 - tumor, tumor]) if scheme is SCHEME else tumor[None]
    field = LargestComponentField(Given(values), scheme)
    wanted = tumor.copy()
    wanted[7:9, 7:9, 7:9] = 0
    for start, stop in ((0, 9), (3, 8), (8, 9)):
        found = field.slab(start, stop).numpy()
        assert np.allclose(found[-1], wanted[start:stop])
        if scheme is SCHEME:
            assert np.allclose(found.sum(0), 1)
    assert np.array_equal(field.labels(scheme) > 0, wanted > 0.5)


def test_nothing_found_stays_nothing() -> None:
    values = np.stack([np.ones((4, 5, 6)), np.zeros((4, 5, 6))])
    assert not LargestComponentField(Given(values), SCHEME).labels(SCHEME).any()


def test_a_model_folder_names_it(make_model: Callable[..., ModelFolder]) -> None:
    model = make_model()
    factory = "renalplan.inference.segmenters.largest_component:LargestComponentSegmenter"
    spec = SegmenterSpec(factory=factory, arguments=model.record.segmenter.arguments)
    write_json(model.path / "trainer.json", model.record.model_copy(update={"segmenter": spec}))
    scan = np.full((12, 20, 20), -1, np.float32)
    scan[1:5, 2:10, 2:10] = 1
    scan[8:11, 14:18, 14:18] = 1
    both = Predictor.from_model(model).predict(scan, (2.0, 1.0, 1.0))
    one = Predictor.from_model(model.path).predict(scan, (2.0, 1.0, 1.0))
    assert both[9, 15, 15] == 1
    assert one[9, 15, 15] == 0
    assert np.array_equal(one[:7], both[:7])
    assert one.any()


def test_what_was_removed_is_reported_in_ml_and_said_if_it_could_be_a_tumor() -> None:
    removed = np.zeros((10, 10, 10), bool)
    nothing = report(removed, (2.0, 1.0, 1.0))
    assert (nothing.values, nothing.remarks) == ({"removed_pieces_ml": []}, ())
    removed[0, 0, 0] = True
    speck = report(removed, (2.0, 1.0, 1.0))
    assert (speck.values, speck.remarks) == ({"removed_pieces_ml": [0.002]}, ())
    removed[5:, 5:, 5:] = True
    found = report(removed, (2.0, 1.0, 1.0))
    assert found.values == {"removed_pieces_ml": [0.25, 0.002]}
    (remark,) = found.remarks
    assert remark.startswith("1 piece of 0.1 ml and more (0.25 ml) removed beside the largest; ")
