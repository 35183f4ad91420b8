"""Subsets, fusion masks and weight maps against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from renalplan.trainers.convcrf import ConvCRF3d
from renalplan.trainers.fusion import (
    FusionSettings,
    around_boxes,
    fusion_mask,
    split_patients,
    weight_map,
)
from renalplan.trainers.pseudo_masks import CrfSettings

SHAPE = (6, 7, 8)
CPU = torch.device("cpu")


def draw(count: int, share: float = 0.4) -> list[NDArray]:
    rng = np.random.default_rng(count)
    return [rng.random(SHAPE) < share for _ in range(count)]


@pytest.mark.parametrize("k", [0, 1, 3, 7])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_weights_count_votes_and_no_vote_weighs_as_all(k: int, share: float) -> None:
    pseudo, *predictions = draw(k + 1, share)
    found = weight_map(pseudo, predictions)
    for place in np.ndindex(SHAPE):
        votes = int(pseudo[place]) + sum(int(p[place]) for p in predictions)
        assert found[place] == (votes or k + 1)
    if k == 0:
        assert (found == 1).all()  # VWCE is WCE then


@pytest.mark.parametrize("k", [0, 3])
def test_the_fusion_mask_is_the_crf_of_the_union(k: int) -> None:
    pseudo, *predictions = draw(k + 1, 0.2)
    image = np.random.default_rng(3).random((1, *SHAPE)).astype(np.float32)
    crf = CrfSettings(message_weight=0.6)
    found = fusion_mask(
        pseudo, predictions, image, (3.0, 1.0, 1.0), settings=FusionSettings(confidence=0.7),
        crf=crf, device=CPU,
    )  # fmt: skip
    union = pseudo.copy()
    for prediction in predictions:
        union |= prediction
    p = torch.from_numpy(np.where(union, 0.7, 0.3))
    wanted = ConvCRF3d(**crf.model_dump())(
        torch.stack([1 - p, p])[None], torch.from_numpy(image)[None], (3.0, 1.0, 1.0)
    )
    assert np.array_equal(found, wanted[0, 1].numpy() > 0.5)
    assert not np.array_equal(found, union)


def test_without_messages_the_union_itself_comes_back() -> None:
    pseudo, *predictions = draw(4, 0.2)
    image = np.zeros((1, *SHAPE), np.float32)
    found = fusion_mask(
        pseudo, predictions, image, (1.0, 1.0, 1.0), settings=FusionSettings(),
        crf=CrfSettings(message_weight=0), device=CPU,
    )  # fmt: skip
    assert np.array_equal(found, np.logical_or.reduce([pseudo, *predictions]))


def test_subsets_are_disjoint_complete_and_keep_patients_together() -> None:
    patients = {f"case_{n}": f"patient_{n // 2}" for n in range(22)}
    found = split_patients(patients, 3, seed=0)
    assert sorted(case for subset in found for case in subset) == sorted(patients)
    owners = [{patients[case] for case in subset} for subset in found]
    assert sum(map(len, owners)) == 11
    assert sorted(map(len, owners)) == [3, 4, 4]
    turned = split_patients(dict(reversed(patients.items())), 3, seed=0)
    assert [set(subset) for subset in turned] == [set(subset) for subset in found]
    assert found != split_patients(patients, 3, seed=1)


def test_as_many_patients_as_subsets_at_least() -> None:
    assert split_patients({"a": "p", "b": "q"}, 2, 0) in ([("a",), ("b",)], [("b",), ("a",)])
    with pytest.raises(ValueError, match="3 disjoint subsets need as many patients, there are 2"):
        split_patients({"a": "p", "b": "q", "c": "q"}, 3, 0)


def test_what_the_crf_sees_holds_all_boxes() -> None:
    boxes = (((10, 12), (30, 35), (0, 4)), ((20, 22), (31, 33), (2, 9)))
    assert around_boxes(boxes, (40, 40, 40)) == (slice(2, 30), slice(22, 40), slice(0, 17))
    assert around_boxes((), (40, 40, 40)) == (slice(0, 1),) * 3
