"""Planning again without options plans as last time; what replaces a plan is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from renalplan.errors import DatasetError, PlanError, UsageError
from renalplan.plan import Intensities
from renalplan.plan_files import remembered_options, settle_plan
from renalplan.planners.fingerprint import CaseFingerprint, Component, Fingerprint, Structure
from renalplan.planners.options import PlanOptions

SMALL = PlanOptions(gpu_memory_gb=0.2, base_features=8)


@pytest.fixture
def fingerprint() -> Fingerprint:
    """Two small isotropic scans that are all foreground."""
    whole = Component(volume_ml=100.0, box_mm=(0, 0, 0, 192, 192, 192))
    case = CaseFingerprint(
        id="a",
        spacing=(4.0, 4.0, 4.0),
        shape=(48, 48, 48),
        shape_after_crop=(48, 48, 48),
        shape_nonzero=(48, 48, 48),
        foreground_share=0.5,
        structures={"kidney": Structure(volume_ml=100.0, thickness_mm=40.0)},
        components=(whole,),
        foreground_box_mm=whole.box_mm,
    )
    numbers = Intensities(
        mean=100,
        std=50,
        minimum=-100,
        maximum=300,
        median=100,
        percentile_00_5=-50,
        percentile_99_5=250,
    )
    return Fingerprint(
        dataset="Dataset001_Test",
        cases=(case, case.model_copy(update={"id": "b"})),
        channel_names=("CT",),
        label_names=("kidney",),
        heads=2,
        intensities=(numbers,),
        inputs={"a": "1", "b": "2"},
    )


def test_without_a_plan_the_defaults_are_taken(tmp_path: Path) -> None:
    assert remembered_options(tmp_path) == PlanOptions()


def test_the_options_of_the_last_plan_are_remembered(
    tmp_path: Path, fingerprint: Fingerprint
) -> None:
    settle_plan(fingerprint, SMALL, tmp_path, replan=False)
    assert remembered_options(tmp_path) == SMALL


def test_options_that_hold_unasked_are_named() -> None:
    assert SMALL.unlike(None) == {"gpu_memory_gb": 0.2, "base_features": 8}
    assert SMALL.unlike(PlanOptions(base_features=8)) == {"gpu_memory_gb": 0.2}
    assert SMALL.unlike(SMALL) == {}


def test_the_command_says_what_it_kept(here: Path, run: Callable[[str], Any]) -> None:
    again = run("plan_and_preprocess 1 --workers 0")
    assert "planned as last time: gpu_memory_gb 0.004, cascade none, base_features 4" in again.out
    stated = run(
        "plan_and_preprocess 1 --workers 0 --gpu_memory 0.004 --base_features 4 --cascade none"
    )
    assert "planned as last time" not in stated.out


def test_a_spacing_is_remembered_as_it_was_given(tmp_path: Path, fingerprint: Fingerprint) -> None:
    wished = PlanOptions(spacing=(4.0, 5.0, 6.0), gpu_memory_gb=0.2, base_features=8)
    settle_plan(fingerprint, wished, tmp_path, replan=False)
    assert remembered_options(tmp_path) == wished


def test_what_replaces_a_plan_is_said(tmp_path: Path, fingerprint: Fingerprint) -> None:
    settle_plan(fingerprint, SMALL, tmp_path, replan=False)
    larger = PlanOptions(gpu_memory_gb=0.4, base_features=8)
    settled = settle_plan(fingerprint, larger, tmp_path, replan=False)
    assert settled.replaced == "gpu_memory_gb was 0.2, is 0.4"


def test_the_same_options_replace_nothing(tmp_path: Path, fingerprint: Fingerprint) -> None:
    settle_plan(fingerprint, SMALL, tmp_path, replan=False)
    assert settle_plan(fingerprint, SMALL, tmp_path, replan=False).replaced == ""


def test_an_edited_plan_is_not_replaced_by_other_options(
    tmp_path: Path, fingerprint: Fingerprint
) -> None:
    edit_batch_size(settle_plan(fingerprint, SMALL, tmp_path, replan=False).folder, 5)
    larger = PlanOptions(gpu_memory_gb=0.4, base_features=8)
    with pytest.raises(
        UsageError, match=r"gpu_memory_gb was 0\.2, is 0\.4; go back to keep the edit"
    ):
        settle_plan(fingerprint, larger, tmp_path, replan=False)


def test_an_edited_patch_that_the_network_cannot_take_is_refused(
    tmp_path: Path, fingerprint: Fingerprint
) -> None:
    folder = settle_plan(fingerprint, SMALL, tmp_path, replan=False).folder
    value = json.loads((folder / "plan.json").read_text())
    value["stages"][0]["patch_size"] = [31, 48, 48]
    (folder / "plan.json").write_text(json.dumps(value))
    with pytest.raises(PlanError, match=r"does not fit the network, which needs multiples of"):
        settle_plan(fingerprint, SMALL, tmp_path, replan=False)


def edit_batch_size(folder: Path, size: int) -> None:
    value = json.loads((folder / "plan.json").read_text())
    value["stages"][0]["batch_size"] = size
    (folder / "plan.json").write_text(json.dumps(value))


def test_naming_the_planner_alone_keeps_the_other_options(
    tmp_path: Path, fingerprint: Fingerprint
) -> None:
    settle_plan(fingerprint, SMALL, tmp_path, False)
    other = PlanOptions(planner="nnunet", gpu_memory_gb=4.0)
    settle_plan(fingerprint, other, tmp_path, False)
    assert remembered_options(tmp_path, PlanOptions(planner="renal")) == SMALL
    assert remembered_options(tmp_path, PlanOptions(planner="nnunet")) == other
    unknown = PlanOptions(planner="nnunet", name="another")
    assert remembered_options(tmp_path, unknown) == unknown


def test_a_window_is_remembered(tmp_path: Path, fingerprint: Fingerprint) -> None:
    asked = PlanOptions(window=(-200.0, 500.0), spacing=(4.0, 4.0, 4.0))
    settled = settle_plan(fingerprint, asked, tmp_path, replan=False)
    assert settled.plan.channels[0].window == (-200.0, 500.0)
    assert remembered_options(tmp_path) == asked
    with pytest.raises(UsageError, match="the lower first"):
        PlanOptions(window=(500.0, -200.0))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"planner": "renal", "batch": 2}, "there is no option 'batch'"),
        ({"planner": "renal", "gpu_memory_gb": "all"}, "valid number"),
        ({"planner": 7}, "valid string"),
        ({"planner": "renal", "spacing": [1.0]}, "Field required"),
        ({"planner": "renal", "base_features": 1}, "base_features must lie between"),
    ],
)
def test_options_that_are_none_are_refused_by_file(
    tmp_path: Path, options: dict[str, object], sentence: str
) -> None:
    path = tmp_path / "renal" / "plan_origin.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"fingerprint": "f", "options": options, "written": "w"}))
    with pytest.raises(DatasetError, match=rf"plan_origin\.json: options: .*{sentence}"):
        remembered_options(tmp_path)
