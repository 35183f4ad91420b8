"""The whole report: on a kidney of known shape, turned, with labels missing, with folds, as a command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy.spatial.transform import Rotation

from renalplan import cli
from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.surgery.numbers import Number
from renalplan.evaluation.surgery.records import SurgeryNumbers
from renalplan.evaluation.surgery.report import surgery_numbers, surgery_report
from renalplan.files import read_record
from renalplan.geometry import Grid, Orientation
from renalplan.images import write_volume
from renalplan.labels import LabelScheme

LOW, HIGH = (-34.0, -26.0, -46.0), (64.0, 26.0, 46.0)
SPACING = (1.2, 1.0, 1.0)


def draw_patient(kidney, tumor=((-20, -8, 24), 9.0)) -> None:  # type: ignore[no-untyped-def]
    """A tumor on the upper outer front of the fixture's kidney, and an artery with three tips."""
    kidney.ball("tumor", *tumor)
    kidney.tube("renal_artery", (60, 0, 0), (16, 0, 0), 3.0)
    for tip in ((-10, 0, 22), (-12, 0, 0), (-10, 0, -22)):
        kidney.tube("renal_artery", (16, 0, 0), tip, 1.6)


def measure(drawing, scheme, turned=None, **options) -> SurgeryNumbers:  # type: ignore[no-untyped-def]
    labels, grid = drawing.scan(LOW, HIGH, SPACING, turned)
    canonical = np.ascontiguousarray(Orientation.of(grid).apply(labels))
    return surgery_numbers(canonical, grid, scheme, **options)


def numbers_of(record: BaseModel, where: str = "") -> Iterator[tuple[str, Number]]:
    """Every number of a record and its place."""
    if isinstance(record, Number):
        yield where, record
        return
    for field in type(record).model_fields:
        value = getattr(record, field)
        for part, one in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(one, BaseModel):
                yield from numbers_of(one, f"{where}.{field}[{part}]")


def test_a_kidney_of_known_shape(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney)
    (found,) = measure(kidney, scheme, error_bars=False).kidneys
    assert (found.side, len(found.tumors)) == ("right", 1)  # it opens to the patient's left
    (tumor,) = found.tumors
    position = tumor.position
    assert tumor.shape.volume.value == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.02)
    assert position.centre_mm == pytest.approx((-20, -8, 24), abs=0.3)
    # the share of a ball outside an ellipsoid, from random points
    points = np.random.default_rng(0).uniform(-9, 9, (100_000, 3))
    points = points[(points**2).sum(axis=1) < 81] + (-20, -8, 24)
    outside = (((points / (22, 20, 40)) ** 2).sum(axis=1) > 1).mean()
    assert position.exophytic.value == pytest.approx(outside, abs=0.1)
    assert position.front.value == pytest.approx(8, abs=1)
    assert (position.hilar.value or 0) < -10
    # the sinus ends where its ellipsoid meets the kidney's: z = +-16.5 within its bay's depth
    assert found.polar_lines_mm == pytest.approx((-14, 14), abs=4.5)
    assert position.above.value == pytest.approx(1, abs=0.1)
    assert (tumor.renal.face, tumor.renal.location.value) in {("x", 1), ("x", 2)}
    assert tumor.renal.radius.value == 1
    assert tumor.padua.rim.value == 1
    assert tumor.padua.longitudinal.value == 1
    assert tumor.renal.score.value == sum(
        getattr(tumor.renal, part).value for part in ("radius", "exophytic", "nearness", "location")
    )
    # no voxel of this scan is a collecting system
    assert tumor.padua.score.missing.startswith("not computable: needs a label for the collecting")
    distance = np.linalg.norm(position.centre_mm)
    assert position.c_index.value == pytest.approx(distance / 9, rel=0.08)


def test_the_arteries_of_a_kidney_and_what_to_clamp(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney)
    (found,) = measure(kidney, scheme, error_bars=False).kidneys
    whole = found.volumes.parenchyma.value or 0
    branches = {branch.number: branch for branch in found.arteries.branches}
    tips = [branch for branch in branches.values() if branch.terminal]
    assert len(tips) == 3
    assert sum(tip.territory.value or 0 for tip in tips) == pytest.approx(whole)  # a partition
    for branch in branches.values():
        children = [b.territory.value or 0 for b in branches.values() if b.parent == branch.number]
        if children:
            assert branch.territory.value == pytest.approx(sum(children))
        assert branch.lost_share.value == pytest.approx((branch.territory.value or 0) / whole)
    upper = max(tips, key=lambda tip: tip.end_mm[2])
    supply = found.tumors[0].supply
    assert supply.nearest == upper.number
    feeding = {one.number: one for one in supply.branches}
    assert (feeding[upper.number].tumor_share.value or 0) > 0.9
    best = supply.clampings[-1]
    assert upper.number in best.branches
    assert all(a.lost.value > b.lost.value for a, b in pairwise(supply.clampings))  # type: ignore[operator]
    covered = sum(feeding[number].margin_share.value or 0 for number in best.branches)
    assert covered == pytest.approx(1)


def test_two_arteries_that_feed_one_tumor_take_two_clamps(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    """No single clamp covers it: there is no set of one, and none with an infinite loss."""
    kidney.ball("tumor", (-16, 0, 0), 9.0)
    for side in (-1, 1):
        kidney.tube("renal_artery", (60, 0, 12 * side), (10, 0, 12 * side), 2.5)
        for back in (-8, 8):
            kidney.tube("renal_artery", (10, 0, 12 * side), (-8, back, 8 * side), 1.6)
    (found,) = measure(kidney, scheme, error_bars=False).kidneys
    clampings = found.tumors[0].supply.clampings
    assert len(clampings[0].branches) == 2
    shares = [clamping.lost_share.value for clamping in clampings]
    assert all(share is not None and share < 1.001 for share in shares)
    assert all(a > b for a, b in pairwise(shares))  # type: ignore[operator]


def test_turning_the_scan_changes_nothing_by_more_than_2_percent(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney, ((-18, -6, 22), 14.0))
    turn = Rotation.from_euler("xyz", (15, -25, 30), degrees=True)
    (one,) = measure(kidney, scheme, error_bars=False).kidneys
    (other,) = measure(kidney, scheme, turn, error_bars=False).kidneys
    assert one.side == other.side
    # what lies at a threshold, or near 0, is compared with the kidney's or the tumor's size
    sizes = {"mm": 28.0, "share": 1.0, "points": 1.0}
    assert one.polar_lines_mm == pytest.approx(other.polar_lines_mm, abs=1)
    compared = 0
    others = dict(numbers_of(other.tumors[0])) | dict(numbers_of(other.volumes))
    for where, number in (*numbers_of(one.tumors[0]), *numbers_of(one.volumes)):
        if "supply" in where:  # branches may be numbered in another order
            continue
        turned = others[where]
        assert number.missing == turned.missing
        if number.value is not None and turned.value is not None:
            size = max(abs(number.value), sizes.get(number.unit, 0.0))
            # polar lines are known to 1 mm, and a millimetre of this tumor is up to 1.5 / 28 of it
            allowed = 1.5 / 28 if where.split("[")[-2].endswith(("above", "below")) else 0.02 * size
            assert abs(number.value - turned.value) <= allowed + 1e-9, where
            compared += 1
    assert compared > 30
    for pick in (min, max):  # territories of the uppermost and the lowest tip
        shares = [
            pick((b for b in kidney_.arteries.branches if b.terminal), key=lambda b: b.end_mm[2])
            for kidney_ in (one, other)
        ]
        assert shares[0].lost_share.value == pytest.approx(shares[1].lost_share.value, abs=0.02)


def test_error_bars_hold_the_value_and_move_as_they_should(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney)
    (found,) = measure(kidney, scheme).kidneys
    (tumor,) = found.tumors
    for where, number in (*numbers_of(tumor), *numbers_of(found.volumes)):
        if number.value is not None and "function" not in where:
            assert number.voxel is not None, where
            assert number.voxel[0] <= number.value <= number.voxel[1], where
    assert tumor.shape.diameter.voxel is not None
    low, high = tumor.shape.diameter.voxel
    assert (low, high) == pytest.approx((16, 20), abs=1.2)  # a voxel on either side
    lost = tumor.supply.clampings[-1].lost_share.voxel
    assert lost is not None
    assert lost[1] - lost[0] < 0.1


def test_folds_that_disagree_and_one_that_misses_the_tumor(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney)
    labels, grid = kidney.scan(LOW, HIGH, SPACING)
    missed = np.where(labels == 2, 1, labels).astype(np.uint8)
    kidney.ball("tumor", (-20, -8, 24), 10.5)
    larger, _ = kidney.scan(LOW, HIGH, SPACING)
    numbers = surgery_numbers(
        labels, grid, scheme, folds=[labels, missed, larger], error_bars=False
    )
    (tumor,) = numbers.kidneys[0].tumors
    assert (numbers.folds, tumor.folds_found) == (3, 2)
    assert tumor.shape.volume.folds is not None
    low, high = tumor.shape.volume.folds
    assert low == tumor.shape.volume.value
    assert high == pytest.approx(4 / 3 * np.pi * 1.05**3, rel=0.02)
    assert tumor.shape.volume.voxel is None


def test_what_a_label_map_does_not_hold_is_said(kidney) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney)
    labels, grid = kidney.scan(LOW, HIGH, SPACING)
    scheme = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))
    labels[labels > 2] = 0
    (found,) = surgery_numbers(labels, grid, scheme, error_bars=False).kidneys
    assert found.arteries.missing == "not computable: needs a label for the renal artery"
    (tumor,) = found.tumors
    assert tumor.supply.missing == found.arteries.missing
    assert found.volumes.cortex.missing == "not computable: needs a label for the cortex"
    assert "sinus or the collecting system" in tumor.renal.score.missing
    assert tumor.renal.complexity == tumor.padua.complexity == ""
    assert tumor.resections[1].removed.value


def test_thick_slices_hide_arteries(kidney, scheme) -> None:  # type: ignore[no-untyped-def]
    draw_patient(kidney)
    labels, grid = kidney.scan(LOW, HIGH, (2.5, 1.0, 1.0))
    (found,) = surgery_numbers(labels, grid, scheme, error_bars=False).kidneys
    assert (
        found.arteries.missing
        == "not computable: needs voxels of at most 1.25 mm (they are up to 2.5 mm)"
    )


def test_two_kidneys_and_their_share(drawing, scheme) -> None:  # type: ignore[no-untyped-def]
    drawing.ellipsoid("kidney", (-50, 0, 0), (16, 16, 30))
    drawing.ellipsoid("kidney", (50, 0, 0), (18, 18, 34))
    drawing.ball("tumor", (66, 0, 0), 8)
    labels, grid = drawing.scan((-70, -22, -38), (78, 22, 38), (2.0, 1.5, 1.5))
    right, left = surgery_numbers(labels, grid, scheme, error_bars=False).kidneys
    assert (right.side, left.side) == ("right", "left")
    assert (len(right.tumors), len(left.tumors)) == (0, 1)
    volumes = [one.volumes.parenchyma.value or 0 for one in (right, left)]
    assert left.volumes.function_share.value == pytest.approx(volumes[1] / sum(volumes))
    assert left.polar_lines_mm is None  # an ellipsoid has no hilum
    assert left.tumors[0].padua.rim.missing


def write_case(folder: Path, labels: NDArray, grid: Grid, scheme: LabelScheme) -> Path:
    write_volume(folder / "case.nii.gz", labels, grid)
    names = {name: values[0] for name, values in zip(scheme.names, scheme.values, strict=True)}
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"})
    )
    return folder / "case.nii.gz"


def test_the_command_writes_what_it_prints(
    kidney,  # type: ignore[no-untyped-def]
    scheme: LabelScheme,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw_patient(kidney)
    case = write_case(tmp_path, *kidney.scan(LOW, HIGH, SPACING), scheme)
    out = tmp_path / "numbers.json"
    arguments = ["-s", str(case), "-o", str(out), "--margins", "3", "--no-error_bars"]
    assert cli.surgery(arguments) == 0
    assert cli.surgery([*arguments, "--folds", str(case)]) == 0  # replaces its own file
    printed = capsys.readouterr().out
    numbers = read_record(out, SurgeryNumbers)
    (tumor,) = numbers.kidneys[0].tumors
    assert [one.margin_mm for one in tumor.resections] == [3.0]
    assert f"diameter {tumor.shape.diameter.value:.1f} mm" in printed
    assert "not a medical device" in printed
    assert "right kidney" in printed
    assert tumor.folds_found == 1


def test_bad_input_is_refused_in_a_sentence(kidney, scheme, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    labels, grid = kidney.scan(LOW, HIGH, (3.0, 3.0, 3.0))
    case = write_case(tmp_path, labels, grid, scheme)
    out = tmp_path / "numbers.json"
    with pytest.raises(UsageError, match=r"ends in \.json"):
        surgery_report(case, tmp_path)
    with pytest.raises(UsageError, match="margins"):
        surgery_report(case, out, margins=[-1])
    with pytest.raises(DatasetError, match="no kidney tissue"):
        surgery_numbers(np.zeros_like(labels), grid, scheme)
    vessels = LabelScheme(names=("background", "artery"), values=((0,), (1,)))
    with pytest.raises(DatasetError, match="name one kidney"):
        surgery_numbers(labels, grid, vessels)
    (tmp_path / "other").mkdir()
    shifted = Grid(size=grid.size, spacing=grid.spacing, origin=(9, 9, 9), direction=grid.direction)
    write_volume(tmp_path / "other" / "case.nii.gz", labels, shifted)
    with pytest.raises(DatasetError, match="does not lie on the grid"):
        surgery_report(case, out, folds=[tmp_path / "other" / "case.nii.gz"])
    write_volume(case, np.where(labels == 5, 77, labels).astype(np.uint8), grid)
    with pytest.raises(DatasetError, match=r"\[77\]"):
        surgery_report(case, out)
    for name in ("dataset.json", "predict_report.json"):
        there = tmp_path / name
        there.write_text(there.read_text() if there.exists() else "{}")
        before = there.read_bytes()
        with pytest.raises(UsageError, match=rf"{name} is there already and is not known"):
            surgery_report(case, there)
        assert there.read_bytes() == before
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DatasetError, match="--labels"):
        surgery_report(case, out)
    with pytest.raises(DatasetError, match=r"none\.nii\.gz does not exist"):
        surgery_report(tmp_path / "none.nii.gz", out)
    assert not out.exists()
