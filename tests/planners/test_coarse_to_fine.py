"""The coarse-to-fine system's grid: the paper's spacing, nowhere finer than the data, axial."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from renalplan.errors import PlanError
from renalplan.plan import Plan
from renalplan.planners.fingerprint import Fingerprint
from renalplan.planners.options import PlanOptions
from renalplan.planners.patch import usable_gb
from renalplan.planners.planner import PLANNERS, make_plan

Make = Callable[..., Fingerprint]


def _plan(found: Fingerprint, **options: object) -> Plan:
    given = PlanOptions(planner="coarse_to_fine", **options)  # type: ignore[arg-type]
    return make_plan(found, given)


def test_kits_gets_the_papers_grid(abdomens: Make) -> None:
    assert "coarse_to_fine" in PLANNERS
    plan = _plan(abdomens())  # 1 x 0.78125 x 0.78125 mm
    assert (plan.name, plan.planner, plan.axes) == ("coarse_to_fine",) * 2 + (("z", "y", "x"),)
    (grid,) = plan.run()
    assert (grid.name, grid.region, grid.target) == ("whole", "volume", "labels")
    assert grid.spacing == (3.0, 0.7816, 0.7816)
    assert grid.median_shape == (133, 512, 512)
    assert "3 x 0.782 x 0.782 mm, but nowhere finer" in grid.reasons["spacing"]
    assert grid.forecast is not None
    assert grid.forecast.training_memory_gb <= usable_gb(8.0)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((5.0, 0.7, 0.7), (5.0, 0.7816, 0.7816)),
        ((3.0, 2.5, 2.5), (3.0, 2.5, 2.5)),
        ((2.0, 0.5, 0.9), (3.0, 0.7816, 0.9)),
    ],
)
def test_it_is_nowhere_finer_than_the_data(
    scans: Make, spacing: tuple[float, float, float], expected: tuple[float, float, float]
) -> None:
    (grid,) = _plan(scans((5, spacing, (100, 200, 200)))).run()
    assert grid.spacing == expected


def test_a_spacing_that_is_asked_for_is_taken(scans: Make) -> None:
    (grid,) = _plan(scans((5, (3.0, 2.0, 2.0), (100, 200, 200))), spacing=(4.0, 1.0, 1.0)).run()
    assert grid.spacing == (4.0, 1.0, 1.0)
    assert grid.reasons["spacing"].startswith("asked for")


def test_slices_stay_axial_even_where_another_axis_is_coarser(scans: Make) -> None:
    plan = _plan(scans((5, (1.0, 8.0, 1.0), (300, 60, 400))))
    assert plan.axes == ("z", "y", "x")
    assert plan.run()[0].spacing == (3.0, 8.0, 1.0)


@pytest.mark.parametrize("cascade", ["locate", "lowres"])
def test_it_has_no_cascade_of_its_own(abdomens: Make, cascade: str) -> None:
    with pytest.raises(PlanError, match=f"--cascade {cascade} is not for it"):
        _plan(abdomens(), cascade=cascade)
    assert len(_plan(abdomens(), cascade="none").stages) == 1


def test_every_value_has_a_reason(abdomens: Make) -> None:
    plan = _plan(abdomens())
    (grid,) = plan.stages
    without = {"name", "forecast", "reasons"}
    assert set(grid.model_dump()) - without <= set(grid.reasons) | {"name"}
    assert {"axes", "configurations", "default_configuration"} <= set(plan.reasons)
