"""Rough network, regions of interest, fine network: what is put back, and what is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from renalplan.dataset import DatasetDescription
from renalplan.files import write_json
from renalplan.geometry import boxes_overlap
from renalplan.images import Volume, read_volume
from renalplan.inference.decisions import Decisions
from renalplan.inference.fields import RegionField
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.scans import ScanFiles, find_scans
from renalplan.inference.segmenters.kidney_rois import KidneyRoiSegmenter
from renalplan.inference.segmenters.staged import StagedSegmenter
from renalplan.model_folder import FINISHED, Finished, ModelFolder, SegmenterSpec, TrainerRecord
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, Plan, StagePlan
from renalplan.rois import kidney_rois

HU = Intensities(
    mean=0, std=1, minimum=0, maximum=1, median=0, percentile_00_5=0, percentile_99_5=1
)
BRIGHT = NetworkSpec(factory="stub_networks:Bright")
CPU = InferenceOptions(device="cpu", engine="torch", precision="fp32")
SPACING = (3.0, 2.0, 2.0)
SHAPE = (48, 70, 90)
RIGHT = (slice(2, 22), slice(25, 41), slice(8, 24))
LEFT = (slice(4, 22), slice(27, 43), slice(60, 76))
SPECK = (slice(46, 48), slice(1, 4), slice(1, 4))  # 0.2 ml
TURN = np.deg2rad(20)
DIRECTIONS = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "oblique": (np.cos(TURN), -np.sin(TURN), 0, np.sin(TURN), np.cos(TURN), 0, 0, 0, 1),
    "z first": (0, 0, -1, 1, 0, 0, 0, -1, 0),
}
ONE = "one kidney found where two are usual; going on with it"


def _scan(*kidneys: tuple[slice, slice, slice]) -> NDArray[np.float32]:
    """1 in kidneys, -1 in the body, -2 around it; canonical (z, y, x)."""
    array = np.full(SHAPE, -2, np.float32)
    array[:, 1:-1, 1:-1] = -1
    for kidney in kidneys:
        array[kidney] = 1
    return array


def _truth(*kidneys: tuple[slice, slice, slice]) -> NDArray[np.uint8]:
    return (_scan(*kidneys) > 0).astype(np.uint8)


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    """Bright voxels are kidney, on 6 x 4 x 4 mm and on the scans' own 3 x 2 x 2 mm."""
    common: dict[str, Any] = {"median_shape": (32, 64, 64), "batch_size": 2, "network": BRIGHT}
    plan = Plan(
        name="bisc",
        dataset="Dataset001_Test",
        planner="bisc",
        channels=(ChannelPlan(name="MR", normalisation="none", intensities=HU),),
        stages=(
            StagePlan(name="rough", spacing=(6.0, 4.0, 4.0), patch_size=(16, 32, 32), **common),
            StagePlan(
                name="fine",
                spacing=SPACING,
                patch_size=(32, 64, 64),
                region="kidney",
                previous="rough",
                margin_mm=45.0,
                minimum_component_ml=5.0,
                **common,
            ),
        ),
        configurations={"rough_fine": ("rough", "fine")},
        default_configuration="rough_fine",
    )
    description = DatasetDescription(
        channel_names={"0": "MR"}, labels={"background": 0, "kidney": 1}
    )
    stages = {"rough": "rough", "fine": "fine"}
    record = TrainerRecord(
        trainer="stub",
        configuration="rough_fine",
        settings={},
        networks=dict.fromkeys(stages, BRIGHT),
        segmenter=SegmenterSpec(
            factory="renalplan.inference.segmenters.kidney_rois:KidneyRoiSegmenter",
            arguments={"stages": stages},
        ),
    )
    made = ModelFolder.create(tmp_path / "model", plan, description, record)
    for stage in stages:
        folder = made.fold_folder("0") / stage
        folder.mkdir(parents=True)
        save_file({"sign": torch.tensor(1.0)}, folder / "model.safetensors")
    write_json(made.fold_folder("0") / FINISHED, Finished(phases=tuple(stages), seconds=1.0))
    return made


@pytest.fixture
def segment(model: ModelFolder, make_volume: Callable[..., Volume]) -> Callable[..., RegionField]:
    def run(*kidneys: tuple[slice, slice, slice]) -> RegionField:
        segmenter = KidneyRoiSegmenter(model, ["0"], CPU, stages={"rough": "rough", "fine": "fine"})
        field = segmenter.segment(make_volume(_scan(*kidneys)))
        assert isinstance(field, RegionField)
        return field

    return run


@pytest.fixture
def make_volume(tmp_path: Path) -> Callable[..., Volume]:
    def make(array: NDArray) -> Volume:
        path = tmp_path / "volume.mha"
        _write(path, array, "plain")
        return read_volume(path)

    return make


def _write(path: Path, array: NDArray, direction: str) -> None:
    """A file whose canonical array is `array`, whatever the directions of its axes."""
    straight = sitk.GetImageFromArray(array)
    straight.SetSpacing(SPACING[::-1])
    if direction == "z first":
        # canonical x, y, z lie along file axes j, -k, -i
        image = sitk.Flip(sitk.PermuteAxes(straight, (2, 0, 1)), (True, False, True), False)
    else:
        image = straight
        image.SetDirection([float(v) for v in DIRECTIONS[direction]])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_an_oracles_kidneys_come_back_voxel_by_voxel(
    direction: str, model: ModelFolder, tmp_path: Path
) -> None:
    path = tmp_path / "scans" / "scan_0000.mha"
    _write(path, _scan(RIGHT, LEFT, SPECK), direction)
    scan = ScanFiles(id="scan", images=(path,), ending=".mha")
    report = Predictor.from_model(model, options=CPU).predict_folder([scan], tmp_path / "out")
    assert not report.failed
    answer = read_volume(tmp_path / "out" / "scan.mha", labels=True)
    # the speck is too small for a kidney and lies in no kidney's region
    assert np.array_equal(answer.array[0], _truth(RIGHT, LEFT))
    mine, theirs = (sitk.ReadImage(str(p)) for p in (path, tmp_path / "out" / "scan.mha"))
    assert mine.GetSize() == theirs.GetSize()
    assert mine.GetDirection() == theirs.GetDirection()


def test_two_kidneys_have_a_region_each_and_nothing_is_said(
    segment: Callable[..., RegionField],
) -> None:
    field = segment(RIGHT, LEFT, SPECK)
    assert len(field.regions) == 2
    right, left = field.regions
    # z: 60 and 54 mm, the next multiple of 16; y and x: 64, cut to 23 voxels beyond the kidney
    assert right.logits.shape == (2, 32, 62, 47)
    assert left.logits.shape == (2, 32, 62, 53)
    assert (right.box[2], left.box[2]) == ((0, 47), (37, 90))
    assert field.decisions == Decisions({"kidneys_found": 2})


def test_a_single_kidney_is_one_region_and_it_is_said(
    segment: Callable[..., RegionField],
) -> None:
    field = segment(LEFT, SPECK)
    assert np.array_equal(field.slab(0, 48).argmax(0).numpy(), _truth(LEFT))
    assert len(field.regions) == 1
    assert field.decisions == Decisions({"kidneys_found": 1}, (ONE,))


def test_nothing_found_is_all_background_and_it_is_said(
    segment: Callable[..., RegionField],
) -> None:
    field = segment()
    slab = field.slab(0, 48)
    assert (slab[0] == 1).all()
    assert not slab[1:].any()
    assert field.decisions == Decisions(
        {"kidneys_found": 0}, ("no kidney found; the segmentation is empty",)
    )


@pytest.mark.parametrize("kidneys", [(), (LEFT,)])
def test_so_does_a_cascade_whose_first_stage_finds_nothing(
    model: ModelFolder, make_volume: Callable[..., Volume], kidneys: tuple[tuple[slice, ...], ...]
) -> None:
    segmenter = StagedSegmenter(model, ["0"], CPU, stages={"rough": "rough", "fine": "fine"})
    field = segmenter.segment(make_volume(_scan(*kidneys)))  # type: ignore[arg-type]
    said = Decisions({}, ("stage rough found nothing; the segmentation is empty",))
    assert field.decisions == (None if kidneys else said)


def test_the_two_largest_of_three_are_segmented(segment: Callable[..., RegionField]) -> None:
    third = (slice(37, 47), slice(25, 41), slice(35, 51))
    field = segment(third, RIGHT, LEFT)
    assert len(field.regions) == 2
    assert np.array_equal(field.slab(0, 48).argmax(0).numpy(), _truth(RIGHT, LEFT))


def test_touching_kidneys_are_one_larger_region(
    segment: Callable[..., RegionField], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bridge = (slice(8, 14), slice(30, 38), slice(24, 60))
    field = segment(RIGHT, LEFT, bridge)
    (region,) = field.regions
    assert region.box[2][1] - region.box[2][0] == 80  # 68 voxels of 136 mm: 150 mm are 75, so 80
    assert np.array_equal(field.slab(0, 48).argmax(0).numpy(), _truth(RIGHT, LEFT, bridge))
    assert field.decisions == Decisions({"kidneys_found": 1}, (ONE,))


def test_what_was_decided_is_written_before_the_segmentation_and_said_with_the_cases_name(
    model: ModelFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name, kidneys in (("alone", (LEFT,)), ("both", (LEFT, RIGHT))):
        _write(tmp_path / "scans" / f"{name}_0000.mha", _scan(*kidneys), "plain")
    scans = list(find_scans(tmp_path / "scans", ("MR",)))
    out = tmp_path / "out"
    report = Predictor.from_model(model, options=CPU).predict_folder(scans, out)
    assert list(report.done) == ["alone", "both"]
    assert json.loads((out / "alone.json").read_text()) == {
        "case": "alone",
        "decisions": {"model": {"kidneys_found": 1, "remarks": [ONE]}},
    }
    both = json.loads((out / "both.json").read_text())
    assert both["decisions"]["model"] == {"kidneys_found": 2, "remarks": []}
    assert [r.getMessage() for r in caplog.records] == [f"alone: {ONE}"]
    for name in ("alone", "both"):
        written = [(out / f"{name}{ending}").stat().st_mtime_ns for ending in (".json", ".mha")]
        assert written == sorted(written)


class Ramp(nn.Module):
    """Says how far along x of its own input a voxel lies."""

    def forward(self, image: Tensor) -> Tensor:
        along = torch.linspace(-3, 3, image.shape[-1]).expand(image[:, :1].shape)
        return torch.cat([-along, along], 1)


def test_where_regions_overlap_the_mean_of_both_counts(
    model: ModelFolder, make_volume: Callable[..., Volume]
) -> None:
    segmenter = KidneyRoiSegmenter(model, ["0"], CPU, stages={"rough": "rough", "fine": "fine"})
    segmenter.networks.use("fine", [Ramp()])
    field = segmenter.segment(make_volume(_scan(RIGHT, LEFT)))
    assert isinstance(field, RegionField)
    first, second = field.regions
    assert boxes_overlap(first.box, second.box)
    one, two = (RegionField(SHAPE, 2, [r], exclusive=True).slab(0, 48) for r in (first, second))
    inside = [torch.zeros(SHAPE, dtype=torch.bool) for _ in range(2)]
    for mask, region in zip(inside, field.regions, strict=True):
        mask[tuple(slice(a, b) for a, b in region.box)] = True
    expected = torch.where(inside[0], one, two)
    both = inside[0] & inside[1]
    assert (one - two)[:, both].abs().max() > 0.5
    expected[:, both] = (one + two)[:, both] / 2
    found = field.slab(0, 48)
    assert torch.allclose(found, expected, atol=1e-6)
    outside = ~(inside[0] | inside[1])
    assert outside.any()
    assert (found[0, outside] == 1).all()
    assert (found[1, outside] == 0).all()


@pytest.mark.parametrize("z_spacing", [1.5, None])
def test_sizes_follow_the_stages_spacing_whatever_the_plans_axes(
    z_spacing: float | None, model: ModelFolder, make_volume: Callable[..., Volume]
) -> None:
    plan = model.plan
    fine = plan.stage("fine").model_copy(
        update={"spacing": (5.0, z_spacing, 2.5), "patch_size": (16, 16, 32)}
    )
    turned = plan.model_copy(update={"axes": ("x", "z", "y"), "stages": (plan.stages[0], fine)})
    own = replace(model)
    own.__dict__["plan"] = turned
    segmenter = KidneyRoiSegmenter(own, ["0"], CPU, stages={"rough": "rough", "fine": "fine"})
    volume = make_volume(_scan(RIGHT, LEFT))
    labels = _truth(RIGHT, LEFT)
    found = segmenter.boxes(fine, ((0, 48), (0, 70), (0, 90)), labels, volume)
    canonical = (3.0 if z_spacing is None else z_spacing, 2.5, 5.0)
    rule: dict[str, Any] = {"margin_mm": 45.0, "minimum_ml": 5.0}
    assert found == kidney_rois(labels > 0, SPACING, canonical, **rule)
    # 60 mm of kidney: 48 of 1.5 mm, or 32 of the scan's own 3 mm
    assert found[0][0][1] - found[0][0][0] == (24 if z_spacing else 32)
    # a window of 80 slices is not filled up with nothing; 2 slices above the kidney, 15 below
    arguments = {"stages": {"rough": "rough", "fine": "fine"}}
    wide = KidneyRoiSegmenter(own, ["0"], CPU, **arguments, patch_sizes={"fine": (16, 80, 32)})
    wider = wide.boxes(fine, ((0, 48), (0, 70), (0, 90)), labels, volume)
    assert wider == kidney_rois(labels > 0, SPACING, canonical, **rule, least=(80, 32, 16))
    assert wider[0][0] == (0, 37)
