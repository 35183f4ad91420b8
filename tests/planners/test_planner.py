from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from renalplan.errors import PlanError, UsageError
from renalplan.plan import Plan, StagePlan
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.planner import PLANNERS, PlanOptions, make_plan

Make = Callable[..., Fingerprint]
STAGE_FIELDS = set(StagePlan.model_fields) - {"name", "reasons"}
PLAN_FIELDS = set(Plan.model_fields) - {"version", "reasons", "warnings"}
SIZES = {
    "large": ((20, (1, 0.78, 0.78), (400, 512, 512)),),
    "small": ((5, (1, 1, 1), (64, 64, 64)),),
    "slices": ((5, (5, 1, 1), (1, 128, 128)),),
}


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("size", [*SIZES, "kidneys"])
def test_every_value_has_a_reason(planner: str, size: str, scans: Make, abdomens: Make) -> None:
    found = abdomens() if size == "kidneys" else scans(*SIZES[size])
    plan = make_plan(found, PlanOptions(planner=planner))
    assert set(plan.reasons) >= PLAN_FIELDS - {"reasons"}
    assert all(len(reason) > 5 for reason in plan.reasons.values())
    for stage in plan.stages:
        assert set(stage.reasons) == STAGE_FIELDS, stage.name
        assert all(len(reason) > 5 for reason in stage.reasons.values())


@pytest.mark.parametrize("planner", PLANNERS)
def test_plan_survives_json(planner: str, tmp_path: Path, abdomens: Make) -> None:
    plan = make_plan(abdomens(), PlanOptions(planner=planner))
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("planner", PLANNERS)
def test_networks_can_be_built_and_divide_their_patch(planner: str, scans: Make) -> None:
    import torch

    from renalplan.networks.unet import UNet

    plan = make_plan(scans(*SIZES["small"], heads=3), PlanOptions(planner=planner))
    for stage in plan.stages:
        with torch.device("meta"):
            network = UNet(in_channels=1, heads=3, **stage.network.arguments)
        assert all(
            edge % step == 0 for edge, step in zip(stage.patch_size, network.divisor, strict=True)
        )
        assert stage.forecast is not None
        count = sum(parameter.numel() for parameter in network.parameters())
        assert stage.forecast.parameters == count


def test_plan_is_named_after_its_planner_unless_asked_for(scans: Make) -> None:
    found = scans(*SIZES["small"])
    assert make_plan(found, PlanOptions(planner="resenc_m")).name == "resenc_m"
    assert make_plan(found, PlanOptions(name="mine")).name == "mine"


def test_unknown_planner_names_its_neighbours(scans: Make) -> None:
    with pytest.raises(UsageError, match=r"'resenc'\. Did you mean .*resenc_[mlx]"):
        make_plan(scans(*SIZES["small"]), PlanOptions(planner="resenc"))


def test_unknown_channel_stops_every_planner(case: Callable, fingerprint: Make) -> None:
    found = fingerprint([case("a", (1, 1, 1), (64, 64, 64))], channels=["Arterial"])
    for planner in PLANNERS:
        with pytest.raises(PlanError, match="'CT_arterial'"):
            make_plan(found, PlanOptions(planner=planner))


def test_dataset_without_foreground_is_an_error(case: Callable, fingerprint: Make) -> None:
    found = fingerprint([case("a", (1, 1, 1), (64, 64, 64), components=[])])
    with pytest.raises(PlanError, match="no training case has any foreground"):
        make_plan(found, PlanOptions())


def test_width_scales_the_network(scans: Make) -> None:
    options = PlanOptions(planner="nnunet", base_features=8, max_features=64)
    network = make_plan(scans(*SIZES["small"]), options).stage("3d_fullres").network
    assert network.arguments["features"] == [8, 16, 32, 64, 64]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_memory_gb": 0}, "above 0 GB"),
        ({"cascade": "two"}, "cascade must be one of auto"),
        ({"spacing": (1, 0, 1)}, "above 0 mm"),
        ({"base_features": 400}, "between 2 and max_features"),
    ],
)
def test_wishes_out_of_range_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PlanOptions(**changes)
