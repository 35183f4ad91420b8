from __future__ import annotations

from collections.abc import Callable

import pytest

from renalplan.errors import PlanError
from renalplan.planners.channels import normalisation, plan_channels
from renalplan.planners.fingerprint import Fingerprint


@pytest.mark.parametrize(
    "name",
    [
        *("CT", "ct", "CTA", "CTU", "CTP", "CT_arterial", "CT venous", "ct-nephrographic"),
        *("CT_arteriel", "arterial_CT", "Venous-CTA", "CT_t_10"),
    ],
)
def test_ct_keeps_hounsfield_units(name: str) -> None:
    rule, reason = normalisation(name)
    assert rule == "ct"
    assert repr(name) in reason


@pytest.mark.parametrize(
    "name", ["MR", "MRI", "T1", "t2", "FLAIR", "US", "PET", "MRI_t1", "fat-T1w"]
)
def test_modalities_without_a_unit_are_scaled_each_by_itself(name: str) -> None:
    rule, reason = normalisation(name)
    assert rule == "zscore"
    assert "no CT" in reason


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("zscore", "zscore"),
        ("rescale_to_0_1", "rescale_to_0_1"),
        ("rgb_to_0_1", "rgb_to_0_1"),
        ("noNorm", "none"),
    ],
)
def test_nnunets_names_mean_themselves(name: str, rule: str) -> None:
    assert normalisation(name)[0] == rule


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("Arterial", "'CT_arterial'"), ("CTX", "'CT"), ("venous phase", "'CT_venous'")],
)
def test_unknown_name_is_an_error_with_a_suggestion(name: str, suggestion: str) -> None:
    with pytest.raises(PlanError) as error:
        normalisation(name)
    assert f"channel {name!r}. Did you mean" in str(error.value)
    assert suggestion in str(error.value)
    assert "Known are CT, CTA" in str(error.value)


@pytest.mark.parametrize("name", ["", "PET_CT", "channel0", "factor", "qqqq"])
def test_names_that_say_nothing_or_two_things_are_errors(name: str) -> None:
    with pytest.raises(PlanError, match="no normalisation is known"):
        normalisation(name)


def test_every_channel_is_planned_with_its_numbers(
    case: Callable, fingerprint: Callable[..., Fingerprint]
) -> None:
    found = fingerprint([case("a", (1, 1, 1), (64, 64, 64))], channels=["CTA", "T2"])
    plans, reason = plan_channels(found)
    assert [(plan.name, plan.normalisation) for plan in plans] == [("CTA", "ct"), ("T2", "zscore")]
    assert plans[0].intensities == found.intensities[0]
    assert "-60 to 300 HU" in reason


def test_a_window_is_for_ct_channels(
    case: Callable, fingerprint: Callable[..., Fingerprint]
) -> None:
    found = fingerprint([case("a", (1, 1, 1), (64, 64, 64))], channels=["CTA", "T2"])
    plans, reason = plan_channels(found, (-200.0, 500.0))
    assert [(plan.normalisation, plan.window) for plan in plans] == [
        ("window", (-200.0, 500.0)),
        ("zscore", None),
    ]
    assert "-200 to 500 HU, as asked for" in reason
    only = fingerprint([case("a", (1, 1, 1), (64, 64, 64))], channels=["T2"])
    with pytest.raises(PlanError, match="--window is for CT channels"):
        plan_channels(only, (-200.0, 500.0))
