from collections.abc import Callable

import numpy as np
import pytest

from renalplan.normalisation import hounsfield, hounsfield_rescaling, normalise, rescalings
from renalplan.plan import ChannelPlan, Intensities, Plan
from renalplan.preprocessing import prepare_image

IMAGE = np.array([-1000, -60, 0, 100, 150, 300, 2000, 90], np.float32).reshape(1, 2, 2, 2)


@pytest.fixture
def channel(intensities: Intensities) -> Callable[..., ChannelPlan]:
    return lambda kind: ChannelPlan(name="CT", normalisation=kind, intensities=intensities)


def test_ct_uses_the_numbers_of_the_plan(channel: Callable[..., ChannelPlan]) -> None:
    found = normalise(IMAGE, rescalings(IMAGE, (channel("ct"),)))
    # (clip(x, -60, 300) - 100) / 50
    expected = [-3.2, -3.2, -2.0, 0.0, 1.0, 4.0, 4.0, -0.2]
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_zscore_uses_the_image(channel: Callable[..., ChannelPlan]) -> None:
    found = normalise(IMAGE, rescalings(IMAGE, (channel("zscore"),)))
    assert found.mean() == pytest.approx(0, abs=1e-6)
    assert found.std() == pytest.approx(1, rel=1e-6)


def test_the_range_becomes_zero_to_one(channel: Callable[..., ChannelPlan]) -> None:
    found = normalise(IMAGE, rescalings(IMAGE, (channel("rescale_to_0_1"),)))
    assert (found.min(), found.max()) == (0, 1)
    assert found.ravel()[2] == pytest.approx(1000 / 3000)


def test_bytes_become_zero_to_one(channel: Callable[..., ChannelPlan]) -> None:
    found = normalise(np.full((1, 1, 1, 1), 51.0), rescalings(IMAGE, (channel("rgb_to_0_1"),)))
    assert found.item() == pytest.approx(0.2)


def test_none_changes_nothing(channel: Callable[..., ChannelPlan]) -> None:
    np.testing.assert_array_equal(normalise(IMAGE, rescalings(IMAGE, (channel("none"),))), IMAGE)


@pytest.mark.parametrize("kind", ["zscore", "rescale_to_0_1"])
def test_a_constant_image_becomes_zero(channel: Callable[..., ChannelPlan], kind: str) -> None:
    flat = np.full((1, 2, 2, 2), 40, np.float32)
    assert (normalise(flat, rescalings(flat, (channel(kind),))) == 0).all()


def test_each_channel_has_its_own_rule(channel: Callable[..., ChannelPlan]) -> None:
    image = np.concatenate([IMAGE, IMAGE])
    found = normalise(image, rescalings(image, (channel("none"), channel("ct"))))
    np.testing.assert_array_equal(found[0], IMAGE[0])
    assert found[1].max() == 4


def test_the_input_is_not_changed(channel: Callable[..., ChannelPlan]) -> None:
    image = IMAGE.copy()
    normalise(image, rescalings(image, (channel("ct"),)))
    np.testing.assert_array_equal(image, IMAGE)


@pytest.mark.parametrize("kind", ["zscore", "rescale_to_0_1", "ct"])
def test_a_cut_out_box_is_scaled_as_the_whole_is(
    channel: Callable[..., ChannelPlan],
    make_plan: Callable[..., Plan],
    make_scan: Callable[..., np.ndarray],
    kind: str,
) -> None:
    image = make_scan()[None]
    plan = make_plan(channels=(channel(kind),))
    rules = rescalings(image, plan.channels)
    box = ((2, 6), (3, 9), (1, 5))
    part = prepare_image(image, box, (1.0, 1.0, 1.0), plan, plan.stages[0], rules)
    np.testing.assert_array_equal(part, normalise(image, rules)[:, 2:6, 3:9, 1:5])


def test_hounsfield_units_come_back_as_far_as_they_were_not_clipped(
    channel: Callable[..., ChannelPlan],
) -> None:
    stored = normalise(IMAGE, rescalings(IMAGE, (channel("ct"),)))
    found = hounsfield(stored[0], channel("ct"))
    np.testing.assert_allclose(found, np.clip(IMAGE[0], -60, 300), atol=1e-4)
    assert found.dtype == np.float32


def test_hounsfield_units_of_a_constant_training_set_are_its_mean(intensities: Intensities) -> None:
    flat = intensities.model_copy(update={"std": 0.0})
    plan = ChannelPlan(name="CT", normalisation="ct", intensities=flat)
    found = hounsfield(np.zeros((2, 2, 2), np.float32), plan)
    np.testing.assert_array_equal(found, 100)


@pytest.mark.parametrize("kind", ["zscore", "rescale_to_0_1", "rgb_to_0_1", "none"])
def test_other_rules_know_no_hounsfield_units(
    channel: Callable[..., ChannelPlan], kind: str
) -> None:
    assert hounsfield_rescaling(channel(kind)) is None
    with pytest.raises(ValueError, match=f"CT is normalised by {kind}, HU are not known"):
        hounsfield(IMAGE[0], channel(kind))


def test_a_window_becomes_zero_to_one_and_comes_back(intensities: Intensities) -> None:
    plan = ChannelPlan(
        name="CT", normalisation="window", intensities=intensities, window=(-200.0, 500.0)
    )
    found = normalise(IMAGE, rescalings(IMAGE, (plan,)))
    # (clip(x, -200, 500) + 200) / 700
    expected = np.array([0, 140, 200, 300, 350, 500, 700, 290]) / 700
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(hounsfield(found, plan), np.clip(IMAGE, -200, 500), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "window", "reason"),
    [
        ("window", None, "go together"),
        ("ct", (0.0, 1.0), "go together"),
        ("window", (5.0, 5.0), "is empty"),
    ],
)
def test_a_window_that_is_none_is_refused(
    intensities: Intensities, kind: str, window: tuple[float, float] | None, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        ChannelPlan(name="CT", normalisation=kind, intensities=intensities, window=window)
