"""Slabs of a field are slices of the whole, and labels follow from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from renalplan.inference import fields
from renalplan.inference.fields import MeanField, RegionField, RegionLogits
from renalplan.labels import LabelScheme
from renalplan.plane_resampling import TensorPlanes

SHAPE = (9, 12, 10)
BOX = ((2, 8), (1, 11), (3, 10))
CLASSES = LabelScheme(names=("background", "kidney", "tumour"), values=((0,), (1,), (2,)))


def _field(exclusive: bool, seed: int = 0, shape: tuple[int, ...] = (4, 7, 9)) -> RegionField:
    logits = 3 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
    return RegionField(SHAPE, 3, [RegionLogits(BOX, TensorPlanes(logits))], exclusive=exclusive)


def _whole(field: RegionField) -> torch.Tensor:
    """Everything at once, by torch's own trilinear interpolation."""
    result = torch.zeros(3, *SHAPE)
    if field.exclusive:
        result[0] = 1
    (region,) = field.regions
    size = tuple(b - a for a, b in region.box)
    logits = F.interpolate(region.logits.tensor[None], size, mode="trilinear", align_corners=False)[
        0
    ]
    (z0, z1), (y0, y1), (x0, x1) = region.box
    result[:, z0:z1, y0:y1, x0:x1] = logits.softmax(0) if field.exclusive else logits.sigmoid()
    return result


@pytest.mark.parametrize("shape", [(4, 7, 9), (6, 10, 7), (11, 13, 8), (1, 1, 1)])
@pytest.mark.parametrize("exclusive", [True, False], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("height", [1, 2, 4, 9])
def test_slabs_are_slices_of_the_whole_volume(
    height: int, exclusive: bool, shape: tuple[int, ...]
) -> None:
    field = _field(exclusive, shape=shape)
    slabs = [field.slab(z, min(z + height, 9)) for z in range(0, 9, height)]
    assert torch.allclose(torch.cat(slabs, 1), _whole(field), atol=1e-5)


def test_outside_the_regions_everything_is_background() -> None:
    for exclusive, background in ((True, 1.0), (False, 0.0)):
        slab = _field(exclusive).slab(0, 2)  # the box begins at slice 2
        assert (slab[0] == background).all()
        assert not slab[1:].any()
    empty = RegionField(SHAPE, 3, [], exclusive=True)
    assert not empty.labels(CLASSES).any()


def test_two_regions_do_not_disturb_each_other() -> None:
    first, second = ((0, 4), (0, 12), (0, 10)), ((4, 9), (0, 12), (0, 10))
    logits = [torch.full((3, 2, 2, 2), float(v)) for v in (1, 2)]
    logits[0][1] += 5
    logits[1][2] += 5
    field = RegionField(
        SHAPE,
        3,
        [
            RegionLogits(first, TensorPlanes(logits[0])),
            RegionLogits(second, TensorPlanes(logits[1])),
        ],
        exclusive=True,
    )
    labels = field.labels(CLASSES)
    assert (labels[:4] == 1).all()
    assert (labels[4:] == 2).all()


@pytest.mark.parametrize("exclusive", [True, False], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("height", [1, 4, 9])
def test_where_boxes_overlap_the_mean_of_their_probabilities_counts(
    height: int, exclusive: bool
) -> None:
    boxes = [((0, 6), (0, 8), (0, 7)), ((2, 9), (3, 12), (1, 9)), ((4, 8), (5, 12), (5, 10))]
    regions = []
    for seed, box in enumerate(boxes):
        logits = 3 * torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(seed))
        regions.append(RegionLogits(box, TensorPlanes(logits)))
    field = RegionField(SHAPE, 3, regions, exclusive=exclusive)
    total, count = torch.zeros(3, *SHAPE), torch.zeros(SHAPE)
    for region in regions:
        (z0, z1), (y0, y1), (x0, x1) = region.box
        alone = _whole(RegionField(SHAPE, 3, [region], exclusive=exclusive))
        total[:, z0:z1, y0:y1, x0:x1] += alone[:, z0:z1, y0:y1, x0:x1]
        count[z0:z1, y0:y1, x0:x1] += 1
    assert set(count.unique().tolist()) == {0, 1, 2, 3}
    expected = total / count.clamp_min(1)
    found = torch.cat([field.slab(z, min(z + height, 9)) for z in range(0, 9, height)], 1)
    assert torch.allclose(found, expected + (count == 0) * _background(exclusive), atol=1e-5)
    assert torch.equal(
        found[:, count == 0], _background(exclusive).expand(3, *SHAPE)[:, count == 0]
    )


def _background(exclusive: bool) -> torch.Tensor:
    return torch.tensor([float(exclusive), 0.0, 0.0]).reshape(3, 1, 1, 1)


@pytest.mark.parametrize("exclusive", [True, False], ids=["softmax", "sigmoid"])
def test_disjoint_boxes_give_exactly_each_regions_own_probabilities(exclusive: bool) -> None:
    boxes = [((0, 4), (0, 12), (0, 5)), ((0, 4), (0, 12), (5, 10)), ((4, 9), (2, 9), (0, 10))]
    regions = [
        RegionLogits(box, TensorPlanes(torch.randn(3, *(b - a for a, b in box)))) for box in boxes
    ]  # of the scan's own grid: nothing is interpolated
    field = RegionField(SHAPE, 3, regions, exclusive=exclusive)
    expected = _background(exclusive).expand(3, *SHAPE).clone()
    for region in regions:
        (z0, z1), (y0, y1), (x0, x1) = region.box
        values = region.logits.tensor.softmax(0) if exclusive else region.logits.tensor.sigmoid()
        expected[:, z0:z1, y0:y1, x0:x1] = values
    assert torch.equal(field.slab(0, 9), expected)


def test_slabs_cover_the_scan_within_the_memory_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # a slice of 3 heads takes 4 * 3 * 12 * 10 = 1440 bytes, so two fit into 3000
    monkeypatch.setattr(fields, "SLAB_BYTES", 3000)
    assert list(_field(True).slabs()) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9)]
    monkeypatch.setattr(fields, "SLAB_BYTES", 1)
    assert len(list(_field(True).slabs())) == 9


def test_labels_are_the_most_probable_class_whatever_the_slabs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    field = _field(True)
    expected = _whole(field).argmax(0).numpy()
    assert np.array_equal(field.labels(CLASSES), expected)
    monkeypatch.setattr(fields, "SLAB_BYTES", 3000)
    assert np.array_equal(field.labels(CLASSES), expected)


def test_labels_take_the_smallest_type_that_holds_them() -> None:
    assert _field(True).labels(CLASSES).dtype == np.uint8
    many = LabelScheme(names=("background", "a", "b"), values=((0,), (1,), (300,)))
    assert _field(True).labels(many).dtype == np.uint16


def test_regions_are_painted_in_order_above_one_half() -> None:
    logits = torch.tensor([[3.0, 3.0, -3.0], [-3.0, 3.0, -3.0]]).reshape(2, 1, 1, 3)
    scheme = LabelScheme(names=("organ", "tumour"), values=((1, 2), (2,)), region_values=(1, 2))
    box = ((0, 1), (0, 1), (0, 3))
    field = RegionField((1, 1, 3), 2, [RegionLogits(box, TensorPlanes(logits))], exclusive=False)
    assert field.labels(scheme).tolist() == [[[1, 2, 0]]]


def test_a_mean_field_is_the_weighted_mean_of_probabilities() -> None:
    one, two = _field(True, 1), _field(True, 2)
    mean = MeanField([one, two]).slab(3, 6)
    assert torch.allclose(mean, (one.slab(3, 6) + two.slab(3, 6)) / 2)
    weighted = MeanField([one, two], [3.0, 1.0]).slab(3, 6)
    assert torch.allclose(weighted, 0.75 * one.slab(3, 6) + 0.25 * two.slab(3, 6))
    assert torch.allclose(weighted.sum(0), torch.ones(3, 12, 10), atol=1e-5)
