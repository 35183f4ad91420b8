import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from renalplan.errors import PlanError
from renalplan.plan import Plan, StagePlan


def test_a_plan_comes_back_equal(
    tmp_path: Path, make_plan: Callable[..., Plan], make_stage: Callable[..., StagePlan]
) -> None:
    plan = make_plan(
        make_stage("locate", reasons={"spacing": "measured"}),
        make_stage("fine", region="kidney", previous="locate", spacing=(None, 0.7, 0.7)),
        axes=("y", "z", "x"),
        warnings=("small data",),
    )
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


@pytest.fixture
def edit(
    tmp_path: Path, make_plan: Callable[..., Plan], make_stage: Callable[..., StagePlan]
) -> Callable[..., Plan]:
    """Edit the JSON of a plan of two stages by hand, and load it."""

    def load(change: Callable[[dict[str, Any]], object]) -> Plan:
        path = tmp_path / "plan.json"
        make_plan(make_stage("coarse"), make_stage("fine", previous="coarse")).save(path)
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        return Plan.load(path)

    return load


def test_an_edited_plan_is_honoured(edit: Callable[..., Plan]) -> None:
    plan = edit(lambda value: value["stages"][1].update(patch_size=[64, 32, 16]))
    assert plan.stage("fine").patch_size == (64, 32, 16)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda v: v.update(patchsize=3), "patchsize: Extra inputs are not permitted"),
        (lambda v: v["stages"][1].update(bach_size=2), "stages.1.bach_size: Extra inputs"),
        (lambda v: v["stages"][0].pop("spacing"), "stages.0.spacing: Field required"),
        (lambda v: v.update(version=2), "version: Input should be 1"),
        (lambda v: v.update(name="../up"), "name: String should match"),
        (lambda v: v["stages"][0].update(name="a/b"), "stages.0.name: String should match"),
        (lambda v: v.update(axes=["z", "z", "x"]), "axes must name z, y and x once each"),
        (lambda v: v.update(default_configuration="new"), "'new' is not one of"),
        (lambda v: v["configurations"].update(all=["coarse", "new"]), "unknown stage 'new'"),
        (lambda v: v["configurations"].update(all=["fine"]), "fine needs coarse first"),
        (lambda v: v["configurations"].update(all=["fine", "coarse"]), "fine needs coarse first"),
        (lambda v: v["configurations"].update(all=[]), "configuration all has no stages"),
        (lambda v: v["stages"][1].update(name="coarse"), "two stages have the same name"),
        (lambda v: v["stages"][0].update(spacing=[1, 0, 1]), "spacing must be above 0"),
        (lambda v: v["stages"][0].update(patch_size=[0, 4, 4]), "patch_size must be at least 1"),
        (lambda v: v["stages"][0].update(batch_size=0), "stages.0.batch_size: "),
        (lambda v: v["stages"][0].update(region="kidney"), "needs a previous stage"),
        *(
            (
                lambda v, s=strides: v["stages"][0]["network"].update(arguments={"strides": s}),
                "strides must be lists of three whole numbers from 1",
            )
            for strides in ([None], 7, [[2, 2]], [[2, 2, 0]], [[2, 2, 1.5]], {"a": [1, 1, 1]})
        ),
        (lambda v: v["channels"][0].update(normalisation="max"), "channels.0.normalisation"),
    ],
)
def test_an_inconsistent_plan_is_refused_by_name(
    edit: Callable[..., Plan], change: Callable[[dict], object], sentence: str
) -> None:
    with pytest.raises(PlanError, match=rf"plan.json: .*{sentence}"):
        edit(change)


def test_a_patch_of_any_size_gets_the_nearest_that_fits(edit: Callable[..., Plan]) -> None:
    def huge(value: dict) -> None:
        value["stages"][0]["network"]["arguments"] = {"strides": [[2, 4, 8]]}
        value["stages"][0]["patch_size"] = [3, 10**400 + 1, 1]

    with pytest.raises(PlanError, match=r"nearest is \(4, 10{400}, 8\)"):
        edit(huge)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"plan.json does not exist"):
        Plan.load(tmp_path / "plan.json")


def test_stages_and_configurations_are_found_by_name(
    make_plan: Callable[..., Plan], make_stage: Callable[..., StagePlan]
) -> None:
    stages = [make_stage("coarse"), make_stage("fine", previous="coarse")]
    plan = make_plan(*stages, configurations={"all": ("coarse", "fine"), "quick": ("coarse",)})
    assert plan.run() == tuple(stages)
    assert plan.run("quick") == (stages[0],)
    with pytest.raises(PlanError, match=r"has no configuration 'slow'; it has all, quick"):
        plan.run("slow")
    with pytest.raises(PlanError, match=r"no stage 'new': \['coarse', 'fine'\]"):
        plan.stage("new")


@pytest.mark.parametrize(
    "axes", [("z", "y", "x"), ("y", "z", "x"), ("x", "z", "y"), ("y", "x", "z")]
)
def test_to_the_axes_of_the_plan_and_back(make_plan: Callable[..., Plan], axes: tuple) -> None:
    plan = make_plan(axes=axes)
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # (channel, z, y, x)
    sizes = {"z": 3, "y": 4, "x": 5}
    turned = plan.to_plan(array)
    assert turned.shape == (2, *(sizes[axis] for axis in axes))
    np.testing.assert_array_equal(plan.from_plan(turned), array)
    np.testing.assert_array_equal(plan.to_plan(plan.from_plan(array)), array)
    assert array.shape[1:][plan.order[plan.left_right_axis]] == 5
