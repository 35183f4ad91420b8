from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from renalplan.errors import DatasetError
from renalplan.evaluation.cases import (
    evaluate_case,
    find_label_maps,
    missed_case,
    present_values,
)
from renalplan.evaluation.columns import (
    COLUMNS,
    DISTANCES,
    LESIONS,
    SCORES,
    SURFACE_DISTANCES,
    absent_columns,
    distances_of,
    has_lesions,
    scores_of,
)
from renalplan.evaluation.tolerance import Tolerance
from renalplan.geometry import Grid
from renalplan.labels import LabelScheme

Write = Callable[..., Path]
EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
DIAGONAL_MM = (6**2 + 10**2 + 20**2) ** 0.5  # 6 x 5 x 4 voxels of 1 x 2 x 5 mm
REGIONS = LabelScheme(
    names=("kidney and mass", "mass"), values=((1, 2), (2,)), region_values=(1, 2)
)


def test_rows_have_the_columns_in_the_schemes_order(
    tmp_path: Path, write: Write, scheme: LabelScheme
) -> None:
    reference = write(tmp_path / "r.nii.gz", {1: 4, 2: 2})
    prediction = write(tmp_path / "p.nrrd", {1: 4, 2: 1})
    rows = evaluate_case("x", prediction, reference, scheme)
    assert [row["structure"] for row in rows] == ["kidney", "tumor"]
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert [row["dice"] for row in rows] == pytest.approx([1, 2 / 3])
    assert rows[1]["reference_ml"] == pytest.approx(0.02)  # 2 voxels of 1 x 2 x 5 mm
    assert rows[1]["predicted_ml"] == pytest.approx(0.01)


def test_regions_overlap(tmp_path: Path, write: Write) -> None:
    reference = write(tmp_path / "r.nii", {1: 4, 2: 2})
    prediction = write(tmp_path / "p.nii", {2: 6})
    whole, mass = evaluate_case("x", prediction, reference, REGIONS)
    assert whole["dice"] == 1  # 1 and 2 are one region
    assert mass["dice"] == pytest.approx(2 * 2 / (2 + 6))


def test_ignored_voxels_are_in_neither_mask(tmp_path: Path, write: Write) -> None:
    scheme = LabelScheme(names=("background", "kidney"), values=((0,), (1,)), ignore=2)
    reference = write(tmp_path / "r.nii", {1: 4, 2: 3})
    prediction = write(tmp_path / "p.nii", {1: 7})
    (row,) = evaluate_case("x", prediction, reference, scheme)
    assert row["dice"] == 1
    assert row["predicted_ml"] == pytest.approx(0.04)  # 3 of the 7 voxels are not counted


def test_a_prediction_cannot_ignore(tmp_path: Path, write: Write) -> None:
    scheme = LabelScheme(names=("background", "kidney"), values=((0,), (1,)), ignore=2)
    reference = write(tmp_path / "r.nii", {1: 4})
    prediction = write(tmp_path / "p.nii", {1: 2, 2: 2})
    (row,) = evaluate_case("x", prediction, reference, scheme)
    assert row["dice"] == pytest.approx(2 * 2 / (4 + 2))


@pytest.mark.parametrize(
    ("truth", "found", "note", "dice"),
    [
        ({}, {}, "both empty", 1),
        ({1: 1}, {}, "prediction empty", 0),
        ({}, {1: 1}, "reference empty", 0),
        ({1: 1}, {1: 1}, "", 1),
    ],
)
def test_empty_masks_are_noted(
    tmp_path: Path, write: Write, truth: dict, found: dict, note: str, dice: float
) -> None:
    scheme = LabelScheme(names=("background", "renal artery"), values=((0,), (1,)))
    reference, prediction = (
        write(tmp_path / name, counts) for name, counts in (("r.nii", truth), ("p.nii", found))
    )
    (row,) = evaluate_case("x", prediction, reference, scheme)
    assert (row["note"], row["dice"]) == (note, dice)
    distance = 0 if dice else DIAGONAL_MM  # of the whole scan, though one voxel is labelled
    assert [row[name] for name in DISTANCES] == pytest.approx([distance] * 5)
    assert [row[name] for name in SCORES] == [dice] * 6
    voxels = sum(found.values()) - sum(truth.values())
    assert row["volume_error_ml"] == pytest.approx(voxels * 0.01)


def test_different_grids_name_both_files(tmp_path: Path, write: Write, scheme: LabelScheme) -> None:
    reference = write(tmp_path / "r.nii", {1: 1})
    grid = Grid(size=(6, 5, 4), spacing=(1, 2, 4), origin=(3, -4, 5), direction=EYE)
    prediction = write(tmp_path / "p.nii", {1: 1}, grid)
    with pytest.raises(DatasetError, match=r"p\.nii .*r\.nii: spacing \(1, 2, 4\) against"):
        evaluate_case("x", prediction, reference, scheme)


@pytest.mark.parametrize("bad", ["r.nii", "p.nii"])
def test_undeclared_values_are_refused(
    tmp_path: Path, write: Write, scheme: LabelScheme, bad: str
) -> None:
    for name in ("r.nii", "p.nii"):
        write(tmp_path / name, {1: 1, 7: 2} if name == bad else {1: 1})
    with pytest.raises(DatasetError, match=rf"{bad} holds label values \[7\]"):
        evaluate_case("x", tmp_path / "p.nii", tmp_path / "r.nii", scheme)


def test_flipped_and_oblique_grids_score_as_the_plain_one(
    tmp_path: Path, write: Write, scheme: LabelScheme
) -> None:
    cos, sin = 0.96, 0.28
    turned = Grid(
        size=(6, 5, 4),
        spacing=(1, 2, 5),
        origin=(0, 0, 0),
        direction=(-1, 0, 0, 0, -cos, sin, 0, sin, cos),
    )
    reference = write(tmp_path / "r.nii", {1: 4}, turned)
    prediction = write(tmp_path / "p.nrrd", {1: 2}, turned)
    rows = evaluate_case("x", prediction, reference, scheme)
    assert rows[0]["dice"] == pytest.approx(2 * 2 / (4 + 2))
    assert rows[0]["reference_ml"] == pytest.approx(0.04)


def test_a_missed_case_scores_zero_everywhere(
    tmp_path: Path, write: Write, scheme: LabelScheme
) -> None:
    rows = missed_case("x", write(tmp_path / "r.nii", {1: 4}), scheme)
    assert [(row["dice"], row["precision"], row["note"]) for row in rows] == [(0, 0, "missing")] * 2
    assert rows[0]["reference_ml"] == pytest.approx(0.04)
    for row in rows:  # also the tumor's, which is in neither mask
        assert [row[name] for name in SURFACE_DISTANCES] == pytest.approx([DIAGONAL_MM] * 4)
        assert np.isnan(row["centerline_mm"])
        assert [row[name] for name in scores_of("kidney")] == [0] * 5
    assert [rows[1][name] for name in LESIONS] == [0, 0, 0]  # it holds no tumor to be missed
    assert np.isnan([rows[0][name] for name in LESIONS]).all()
    assert rows[0]["volume_error_ml"] == pytest.approx(-0.04)
    scheme = LabelScheme(names=("background", "kidney", "Vein"), values=((0,), (1,), (2,)))
    rows = missed_case("x", tmp_path / "r.nii", scheme)
    assert rows[1]["centerline_mm"] == pytest.approx(DIAGONAL_MM)
    assert rows[1]["cldice"] == 0


def test_distances_are_in_mm_of_the_canonical_axes(tmp_path: Path, write: Write) -> None:
    scheme = LabelScheme(names=("background", "artery"), values=((0,), (1,)))
    reference, prediction = np.zeros((2, 4, 5, 6), np.uint8)
    reference[1, 1, 1], prediction[3, 1, 1] = 1, 1  # two planes of 5 mm apart
    files = write(tmp_path / "p.nii", prediction), write(tmp_path / "r.nii", reference)
    (row,) = evaluate_case("x", *files, scheme)
    assert [row[name] for name in DISTANCES] == pytest.approx([10] * 5)


def test_ignored_voxels_have_no_surface(tmp_path: Path, write: Write) -> None:
    scheme = LabelScheme(names=("background", "kidney"), values=((0,), (1,)), ignore=2)
    reference = write(tmp_path / "r.nii", {1: 4, 2: 3})
    prediction = write(tmp_path / "p.nii", {1: 7})
    (row,) = evaluate_case("x", prediction, reference, scheme)
    assert [row[name] for name in SURFACE_DISTANCES] == [0] * 4


def test_centerlines_are_for_names_of_tubes() -> None:
    assert distances_of("kidney") == SURFACE_DISTANCES
    assert distances_of("renal artery") == DISTANCES
    assert scores_of("renal artery") == SCORES
    assert "cldice" not in scores_of("kidney")


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("tumor", True),
        ("Kidney tumor", True),
        ("left_cyst", True),
        ("mass", True),
        ("kidney", False),
        ("kidney_and_mass", False),
        ("tumor+kidney", False),
        ("kidney with cysts", False),
        ("renal artery", False),
        ("random mass of kidney", True),  # no "and" as a word
    ],
)
def test_lesions_are_told_by_name(name: str, counted: bool) -> None:
    assert has_lesions(name) is counted
    assert ("lesions_found" in absent_columns(name)) is not counted


def test_the_tolerance_is_that_of_the_structure(
    tmp_path: Path, write: Write, scheme: LabelScheme
) -> None:
    reference, prediction = np.zeros((2, 4, 5, 6), np.uint8)
    for value, row in ((1, 0), (2, 3)):  # bars of 2 x 2 x 6 voxels, each 2 mm too far back
        reference[:2, row : row + 1], prediction[:2, row + 1 : row + 2] = value, value
    files = write(tmp_path / "p.nii", prediction), write(tmp_path / "r.nii", reference)
    kidney, tumor = evaluate_case("x", *files, scheme, Tolerance({"tumor": 2.0}, 1.9))
    assert (kidney["tolerance_mm"], tumor["tolerance_mm"]) == (1.9, 2.0)
    assert tumor["surface_dice"] == 1
    assert 0 < kidney["surface_dice"] < 1  # what faces the shift is off, ends and sides are not


def test_label_maps_are_found_by_name_without_ending(tmp_path: Path, write: Write) -> None:
    for name in ("b.nii.gz", "a.1.nrrd", ".hidden.nii", ".tmp-1-c.nii"):
        write(tmp_path / name, {1: 1})
    (tmp_path / "summary.json").write_text("{}")
    assert list(find_label_maps(tmp_path)) == ["a.1", "b"]
    write(tmp_path / "b.nrrd", {1: 1})
    with pytest.raises(DatasetError, match="same case"):
        find_label_maps(tmp_path)
    with pytest.raises(DatasetError, match="not a folder"):
        find_label_maps(tmp_path / "nowhere")


def test_present_values_are_ascending() -> None:
    labels = np.zeros((2, 3, 3), np.uint16)
    labels[1, 1, 1], labels[0, 0, 0] = 300, 5
    assert present_values(labels) == [0, 5, 300]
