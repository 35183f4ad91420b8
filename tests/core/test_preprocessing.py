import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from renalplan.normalisation import normalise, rescalings
from renalplan.plan import Plan, StagePlan
from renalplan.preprocessing import (
    body_box,
    prepare_image,
    prepare_labels,
    stage_shape,
    stage_spacing,
)
from renalplan.resampling import resample_image, resample_labels

BOX = ((1, 7), (2, 10), (0, 12))
SPACING = (3.0, 1.0, 0.5)  # mm along (z, y, x)


def test_air_around_the_body_is_cut_off() -> None:
    image = np.full((1, 6, 8, 10), -1000, np.float32)
    image[0, 1:5, 2:7, 3:9] = 40
    image[0, 2, 3, 4] = -800  # lung inside does not matter
    assert body_box(image) == ((1, 5), (2, 7), (3, 9))


def test_fat_is_body_and_thin_foam_is_air() -> None:
    image = np.full((1, 4, 4, 4), -1024, np.float32)
    image[0, 1:3, 1:3, 1:3] = -100
    image[0, 3, 0, 0] = -700
    assert body_box(image) == ((1, 3), (1, 3), (1, 3))


def test_without_air_the_padding_is_cut_off() -> None:
    image = np.zeros((1, 6, 6, 6), np.float32)
    image[0, 2:4, 1:6, 0:3] = 5
    assert body_box(image) == ((2, 4), (1, 6), (0, 3))


def test_one_channel_of_the_body_is_enough() -> None:
    image = np.full((2, 6, 6, 6), -1000, np.float32)
    image[0, 0:2, 2:3, 2:3] = image[1, 4:5, 2:3, 5:6] = 40
    assert body_box(image) == ((0, 5), (2, 3), (2, 6))


@pytest.mark.parametrize("value", [0, -1000, 40])
def test_an_image_of_one_value_stays_whole(value: float) -> None:
    assert body_box(np.full((1, 3, 4, 5), value, np.float32)) == ((0, 3), (0, 4), (0, 5))


@pytest.fixture
def transposed(make_plan: Callable[..., Plan], make_stage: Callable[..., StagePlan]) -> Plan:
    """Axes (y, z, x), spacings 2, its own, and 1 mm along them."""
    return make_plan(make_stage(spacing=(2.0, None, 1.0)), axes=("y", "z", "x"))


def test_spacings_and_shapes_follow_the_axes_of_the_plan(transposed: Plan) -> None:
    stage = transposed.stages[0]
    assert stage_spacing(transposed, stage, SPACING) == (2.0, 3.0, 1.0)
    # y: 10 x 1 / 2 = 5;  z: 8 as it is;  x: 12 x 0.5 / 1 = 6
    assert stage_shape(transposed, stage, (8, 10, 12), SPACING) == (5, 8, 6)


def test_an_image_is_cut_normalised_turned_and_resampled(
    transposed: Plan, make_scan: Callable[..., np.ndarray]
) -> None:
    image = make_scan()[None]
    rules = rescalings(image, transposed.channels)
    found = prepare_image(image, BOX, SPACING, transposed, transposed.stages[0], rules)

    step = normalise(image[:, 1:7, 2:10, 0:12], rules)  # (1, 6, 8, 12) along (z, y, x)
    step = np.ascontiguousarray(step.transpose(0, 2, 1, 3))  # (1, 8, 6, 12) along (y, z, x)
    expected = resample_image(step, (4, 6, 6), (1.0, 3.0, 0.5))
    np.testing.assert_array_equal(found, expected)
    assert found.shape == (1, 4, 6, 6)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_integers_are_prepared_as_their_floats_are(transposed: Plan, dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 200, (1, 8, 12, 14)).astype(dtype)
    if dtype == np.int16:
        image[..., :3] = -1024
    floats = image.astype(np.float32)
    assert body_box(image) == body_box(floats)
    rules = rescalings(image, transposed.channels)
    assert rules == rescalings(floats, transposed.channels)
    stage = transposed.stages[0]
    found = prepare_image(image, BOX, SPACING, transposed, stage, rules)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(
        found, prepare_image(floats, BOX, SPACING, transposed, stage, rules)
    )


def test_no_more_than_two_arrays_live_at_once(
    make_plan: Callable[..., Plan], make_stage: Callable[..., StagePlan]
) -> None:
    plan = make_plan(make_stage(spacing=(1.0, 1.0, 1.0)))
    image = np.random.default_rng(0).normal(size=(1, 60, 60, 60)).astype(np.float32)
    rules = rescalings(image, plan.channels)
    shape = stage_shape(plan, plan.stages[0], image.shape[1:], (1.1, 1.2, 1.3))
    largest = 4 * (shape[0] * shape[1] * 60 + shape[0] * shape[1] * shape[2])
    box = ((0, 60), (0, 60), (0, 60))
    prepare_image(image, box, (1.1, 1.2, 1.3), plan, plan.stages[0], rules)  # weights are kept
    tracemalloc.start()
    try:
        prepare_image(image, box, (1.1, 1.2, 1.3), plan, plan.stages[0], rules)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.05 * largest


def test_labels_go_the_same_way(transposed: Plan, two_structures: np.ndarray) -> None:
    found = prepare_labels(two_structures, BOX, SPACING, transposed, transposed.stages[0])
    cut = np.ascontiguousarray(two_structures[1:7, 2:10, 0:12].transpose(1, 0, 2))
    np.testing.assert_array_equal(found, resample_labels(cut, (4, 6, 6)))


@pytest.mark.parametrize("axes", [("z", "y", "x"), ("y", "z", "x"), ("x", "z", "y")])
@pytest.mark.parametrize("spacing", [(None, None, None), (0.5, 1.0, 0.25)])
def test_image_and_labels_stay_on_each_other(
    make_plan: Callable[..., Plan],
    make_stage: Callable[..., StagePlan],
    axes: tuple[str, str, str],
    spacing: tuple,
) -> None:
    labels = np.zeros((8, 10, 12), np.uint8)
    labels[1:6, 3:7, 4:9] = 1
    image = np.where(labels, 300, -60).astype(np.float32)[None]  # normalised: 4 and -3.2
    plan = make_plan(make_stage(spacing=spacing), axes=axes)
    stage, rules = plan.stages[0], rescalings(image, plan.channels)
    box, own = ((0, 8), (0, 10), (0, 12)), (1.0, 1.0, 1.0)
    prepared = prepare_image(image, box, own, plan, stage, rules)
    target = prepare_labels(labels, box, own, plan, stage)
    assert prepared.shape == (1, *target.shape)
    # the middle of -3.2 and 4; a voxel whose centre lies on the edge itself may fall to either side
    sure = np.abs(prepared[0] - 0.4) > 1
    np.testing.assert_array_equal((prepared[0] > 0.4)[sure], (target == 1)[sure])
    assert sure.mean() > 0.9
    # 5 x 4 x 5 = 100 mm^3 of label, whatever the axes
    volume = (target == 1).sum() * np.prod(stage_spacing(plan, stage, own))
    assert volume == pytest.approx(100, rel=0.15)
