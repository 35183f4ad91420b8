"""Two nested probabilities as heads: the largest head decides as the rules do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renalplan.inference.kidney_tumor_field import KidneyTumorField
from renalplan.kidney_tumor import find_kidney_tumor
from renalplan.labels import LabelScheme

CLASSES = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))
SWAPPED = LabelScheme(names=("background", "tumor", "kidney"), values=((0,), (1,), (2,)))
REGIONS = LabelScheme(names=("kidney", "tumor"), values=((1, 2), (2,)), region_values=(1, 2))
APART = LabelScheme(names=("tumor", "kidney"), values=((2,), (1,)), region_values=(2, 1))
SCHEMES = {"classes": CLASSES, "swapped": SWAPPED, "regions": REGIONS, "apart": APART}


def _field(scheme: LabelScheme, both: np.ndarray, tumor: np.ndarray, **values: object):  # type: ignore[no-untyped-def]
    box = tuple((0, n) for n in both.shape)
    given: dict = {"shape": both.shape, "box": box} | values
    probabilities = torch.from_numpy(np.stack([both, tumor]).astype(np.float32))
    return KidneyTumorField(
        given["shape"], given["box"], probabilities, scheme, find_kidney_tumor(scheme)
    )


@pytest.mark.parametrize("name", SCHEMES)
def test_what_the_rules_decide_is_what_the_heads_decide(name: str) -> None:
    """Every pair of probabilities, the doubtful ones above all."""
    scheme = SCHEMES[name]
    values = np.concatenate([np.linspace(0, 1, 41), [0.4999, 0.5001, 0.34, 0.66]])
    both, tumor = (a[None] for a in np.meshgrid(values, values, indexing="ij"))
    kidney_value, tumor_value = (2, 1) if name == "swapped" else (1, 2)
    expected = np.where(both > 0.5, kidney_value, 0)
    expected = np.where(tumor > 0.5, tumor_value, expected)
    field = _field(scheme, both, tumor)
    # where both are at one half exactly nothing is certain, whoever decides
    clear = (np.abs(both - 0.5) > 1e-6) & (np.abs(tumor - 0.5) > 1e-6)
    assert np.array_equal(field.labels(scheme)[clear], expected[clear])
    heads = field.slab(0, 1)
    assert heads.min() >= 0
    assert heads.max() <= 1
    if not scheme.has_regions:
        assert torch.allclose(heads.sum(0), torch.ones(heads.shape[1:]), atol=1e-6)


def test_a_kidney_region_that_holds_the_tumor_is_at_least_as_probable() -> None:
    both, tumor = np.full((1, 1, 1), 0.2), np.full((1, 1, 1), 0.9)
    kidney, lesion = _field(REGIONS, both, tumor).slab(0, 1)[:, 0, 0, 0]
    assert kidney == lesion == pytest.approx(0.9)


@pytest.mark.parametrize("name", ["classes", "regions"])
def test_outside_its_box_all_is_background_and_slabs_fit_together(name: str) -> None:
    scheme = SCHEMES[name]
    rng = np.random.default_rng(0)
    both, tumor = rng.random((2, 3, 4, 5))
    field = _field(scheme, both, tumor, shape=(9, 10, 11), box=((2, 8), (1, 9), (0, 10)))
    whole = field.slab(0, 9)
    assert whole.shape == (scheme.heads, 9, 10, 11)
    for start in range(9):
        assert torch.equal(field.slab(start, start + 1)[:, 0], whole[:, start])
    outside = torch.ones((9, 10, 11), dtype=torch.bool)
    outside[2:8, 1:9, 0:10] = False
    if name == "classes":
        assert (whole[0, outside] == 1).all()
        assert not whole[1:, outside].any()
    else:
        assert not whole[:, outside].any()
    # twice as fine: the corner's voxel repeats the corner
    assert field.labels(scheme)[2, 1, 0] == _field(scheme, both, tumor).labels(scheme)[0, 0, 0]
