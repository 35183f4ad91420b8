from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.io import imread

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.figures import COLOURS, PLANES, colour_of, overlay_bytes, overlay_png
from renalplan.evaluation.pictures import choose_cases, find_scans
from renalplan.evaluation.scene import CT_WINDOW_HU, Scene, choose_slice, grey_window
from renalplan.geometry import Grid
from renalplan.images import write_volume
from renalplan.labels import LabelScheme

GRID = Grid(
    size=(60, 50, 20), spacing=(1, 1, 3), origin=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Path]:
    """A bright block at the patient's right, front and foot end of a dark scan."""
    image, labels = np.full((20, 50, 60), -1000, np.float32), np.zeros((20, 50, 60), np.uint8)
    image[2:8, 5:15, 5:20] = 200
    labels[2:8, 5:15, 5:20] = 1
    write_volume(tmp_path / "i.nii", image, GRID)
    write_volume(tmp_path / "r.nii", labels, GRID)
    write_volume(tmp_path / "p.nrrd", np.roll(labels, 2, axis=2), GRID)
    return {k: tmp_path / n for k, n in (("i", "i.nii"), ("r", "r.nii"), ("p", "p.nrrd"))}


@pytest.mark.parametrize("have", ["irp", "ip", "p", "r", "rp"])
def test_overlay_is_a_picture_with_whatever_is_there(
    case: dict[str, Path], tmp_path: Path, scheme: LabelScheme, have: str
) -> None:
    image, reference, prediction = (case[k] if k in have else None for k in "irp")
    path = tmp_path / "picture.png"
    overlay_png(path, image, prediction, reference, scheme=scheme)
    pixels = imread(path)
    assert pixels.shape[0] > 250
    assert pixels.shape[1] > 450
    assert pixels[..., :3].std() > 5
    orange = np.array([int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(pixels[..., :3].astype(int) - orange).max(axis=-1) < 30).sum() > 50


def test_patients_right_front_and_feet_lie_left_up_and_down() -> None:
    """One bright voxel block tells where each panel puts it."""
    image = np.zeros((30, 30, 30), np.float32)
    image[2:8, 3:9, 4:10] = 1  # feet, front, right
    nothing = np.zeros((1, 30, 30, 30), bool)
    nothing[0, 5, 6, 7] = True  # slices through the block; the margin shows everything
    scene = Scene(image=image, reference=nothing, prediction=None, spacing=(1, 1, 1), names=("x",))
    pixels = imread(io.BytesIO(overlay_bytes(scene)))[..., :3]
    white = (pixels.min(axis=-1) > 250)[30:-45]  # without titles and legend
    third = white.shape[1] // 3
    centres = [_centre(white[:, i * third : (i + 1) * third]) for i in range(3)]
    rows, columns = zip(*centres, strict=True)
    assert [plane.name for plane in PLANES] == ["axial", "coronal", "sagittal"]
    assert all(column < 0.45 for column in columns)  # right, right, front: on the left
    assert rows[0] < 0.45  # front: up
    assert rows[1] > 0.55  # feet: down
    assert rows[2] > 0.55


def _centre(part: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(part)
    return float(np.median(rows)) / part.shape[0], float(np.median(columns)) / part.shape[1]


def test_names_are_never_formulas_or_private(scheme: LabelScheme) -> None:
    masks = np.ones((2, 3, 3, 3), bool)
    names = ("_$x^{$", "a very long name of a structure that does not end")
    scene = Scene(image=None, reference=masks, prediction=masks, spacing=(1, 1, 1), names=names)
    assert overlay_bytes(scene).startswith(b"\x89PNG")


def test_slice_runs_through_the_largest_and_shows_the_others() -> None:
    masks = np.zeros((2, 6, 4, 4), bool)
    masks[0, 1:5] = True  # the largest, alike in slices 1 to 4
    masks[1, 3, 0, 0] = True  # the small one only in slice 3
    masks[1, 0, 0, :2] = True  # more of it where the largest is not
    assert choose_slice(masks, 0) == 3
    assert choose_slice(masks * False, 1) == 2


def test_window_is_ct_if_said_or_if_there_is_air() -> None:
    mr = np.linspace(0, 100, 101, dtype=np.float32)
    assert grey_window(mr, None) == pytest.approx((1, 99))
    assert grey_window(mr, True) == CT_WINDOW_HU
    assert grey_window(mr - 1000, None) == CT_WINDOW_HU
    assert grey_window(np.zeros(4), False) == (0, 1)


def test_overlay_refuses_other_grids_and_no_masks(
    case: dict[str, Path], tmp_path: Path, scheme: LabelScheme, write: Callable[..., Path]
) -> None:
    with pytest.raises(UsageError, match="prediction or a reference"):
        overlay_png(tmp_path / "x.png", case["i"], None, scheme=scheme)
    other = write(tmp_path / "other.nii", {1: 1})
    with pytest.raises(DatasetError, match="does not lie on the grid"):
        overlay_png(tmp_path / "x.png", case["i"], other, scheme=scheme)
    assert not (tmp_path / "x.png").exists()


def test_colours_follow_the_order_of_names() -> None:
    names = tuple(f"s{i}" for i in range(len(COLOURS) + 1))
    assert colour_of(names)["s0"] == colour_of(names)[names[-1]] == COLOURS[0]


def test_cases_shown_are_the_worst_a_median_and_the_best() -> None:
    dice = pd.Series(np.linspace(0, 1, 20), index=[f"c{i:02d}" for i in range(20)])
    assert choose_cases(dice, 5) == ["c00", "c01", "c02", "c10", "c19"]
    assert choose_cases(dice, 2) == ["c00", "c01"]
    assert choose_cases(dice, 0) == []
    assert len(choose_cases(dice, 30)) == 20


def test_scans_are_found_with_and_without_channel(tmp_path: Path) -> None:
    for name in ("a_0000.nii", "a_0001.nii", "b.nii"):
        write_volume(tmp_path / name, np.zeros((20, 50, 60), np.uint8), GRID)
    scans = find_scans(tmp_path)
    assert (scans["a"].name, scans["b"].name) == ("a_0000.nii", "b.nii")
