"""boxesTr.csv: what is read, refused by line, and where boxes lie once a scan is turned."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from renalplan.boxes import COLUMNS, LabelBox, canonical_box, outside, paint_boxes, read_boxes
from renalplan.case_labels import canonical_boxes, read_labels
from renalplan.dataset import Dataset
from renalplan.errors import DatasetError
from renalplan.geometry import Grid, Orientation, box_slices
from renalplan.images import read_volume
from renalplan.integrity import check_dataset, quick_check
from renalplan.planners.fingerprint import measure_case
from renalplan.store_dataset import hash_inputs

HEADER = ",".join(COLUMNS)


def _file(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "boxesTr.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_rows_are_read_by_case_in_order(tmp_path: Path) -> None:
    path = _file(tmp_path, "b,1,0,1,2,3,4,5", "", "a, 2, 1,1,1, 2,2,2", "b,1,5,5,5,6,7,8")
    found = read_boxes(path, (1, 2), ("a", "b", "c"))
    assert found == {
        "b": (
            LabelBox(label=1, box=((0, 3), (1, 4), (2, 5)), line=2),
            LabelBox(label=1, box=((5, 6), (5, 7), (5, 8)), line=5),
        ),
        "a": (LabelBox(label=2, box=((1, 2), (1, 2), (1, 2)), line=4),),
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a,1,0,0,0,1,1", "line 2 has 7 columns, it needs 8"),
        ("x,1,0,0,0,1,1,1", "line 2: imagesTr has no case 'x'"),
        ("a,3,0,0,0,1,1,1", r"line 2: dataset.json has no structure of label 3; it has \[1, 2\]"),
        ("a,1,0,0,0,1,1.5,1", "line 2: label and corners must be whole numbers"),
        ("a,1,0,4,0,1,4,1", "line 2: y0 must be at least 0 and below y1; they are 4 and 4"),
        ("a,1,0,0,-1,1,4,1", "line 2: x0 must be at least 0 and below x1; they are -1 and 1"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, reason: str) -> None:
    with pytest.raises(DatasetError, match=rf"boxesTr\.csv: {reason}"):
        read_boxes(_file(tmp_path, row), (1, 2), ("a",))


def test_other_columns_and_other_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="line 1 must be case,label"):
        read_boxes(_file(tmp_path, header="case,label,x0,y0,z0,x1,y1,z1"), (1,), ())
    (tmp_path / "boxesTr.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_boxes(tmp_path / "boxesTr.csv", (1,), ())


def test_a_box_beyond_the_image_is_named(make_grid: Callable[..., Grid]) -> None:
    grid = make_grid((7, 6, 5))  # x, y, z
    box = LabelBox(label=1, box=((0, 5), (0, 6), (0, 8)), line=9)
    assert outside(Path("b.csv"), [box], grid) == [
        "b.csv: line 9: x1 is 8, but the image has 7 voxels along x."
    ]


def _grids() -> list[Grid]:
    """All 48 ways to lay out a scan."""
    found = []
    for order in permutations(range(3)):
        for signs in range(8):
            direction = np.zeros((3, 3))
            for column, axis in enumerate(order):
                direction[axis, column] = -1 if signs >> column & 1 else 1
            found.append(
                Grid(
                    size=(5, 6, 7), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0),
                    direction=tuple(direction.ravel()),
                )
            )  # fmt: skip
    return found


@pytest.mark.parametrize("grid", _grids())
def test_boxes_turn_with_their_scan(grid: Grid) -> None:
    box = ((1, 3), (0, 4), (2, 5))  # of an array (7, 6, 5)
    stored = np.zeros(grid.shape, np.uint8)
    stored[box_slices(box)] = 2
    wanted = Orientation.of(grid).apply(stored)
    painted = paint_boxes([LabelBox(label=2, box=box, line=2)], grid)
    assert np.array_equal(painted, wanted)
    assert (painted[box_slices(canonical_box(box, grid))] == 2).all()


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., Path]) -> Path:
    """Case a has a label map, case b two boxes instead."""
    root = tmp_path / "Dataset001_Boxes"
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "tumor": 1},
        "file_ending": ".nii.gz",
    }
    image = np.random.default_rng(0).integers(-100, 100, (8, 9, 10)).astype(np.float32)
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:4, 3:5, 4:6] = 1
    for path, array in (
        ("imagesTr/a_0000.nii.gz", image),
        ("imagesTr/b_0000.nii.gz", image),
        ("labelsTr/a.nii.gz", labels),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write(root / path, array)
    (root / "dataset.json").write_text(json.dumps(description))
    _file(root, "b,1,1,1,1,3,3,3", "b,1,5,5,5,8,9,10")
    return root


def test_a_case_may_have_boxes_instead_of_labels(folder: Path) -> None:
    dataset = Dataset.open(folder)
    first, second = dataset.training_cases
    assert (first.is_boxed, second.is_boxed) == (False, True)
    assert check_dataset(dataset) == []
    quick_check(dataset)
    measured, samples = measure_case(second, dataset.scheme)
    assert measured.structures["tumor"].volume_ml == pytest.approx((8 + 3 * 4 * 5) / 1000)
    assert samples.shape[0] == 1


def test_training_takes_boxes_as_they_lie_on_the_turned_scan(
    folder: Path, write: Callable[..., Path]
) -> None:
    image = folder / "imagesTr" / "b_0000.nii.gz"
    array = np.random.default_rng(0).integers(-100, 100, (8, 9, 10)).astype(np.float32)
    write(image, array, direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    first, second = Dataset.open(folder).training_cases
    boxes = canonical_boxes([first, second])
    assert sorted(boxes) == ["b"]  # a has a label map
    volume = read_volume(image)
    labels = read_labels(second, volume)
    assert labels is not None
    assert labels.shape == volume.array.shape[1:] != array.shape
    painted = np.zeros_like(labels)
    for box in boxes["b"]:
        painted[box_slices(box)] = 1
    np.testing.assert_array_equal(labels, painted)
    written = volume.orientation.undo(labels)
    assert written[1:3, 1:3, 1:3].all()
    assert written[5:8, 5:9, 5:10].all()
    assert written.sum() == 8 + 3 * 4 * 5


def test_training_refuses_a_box_beyond_its_image(folder: Path) -> None:
    _file(folder, "b,1,1,1,1,3,3,11")
    case = Dataset.open(folder).training_cases[1]
    sentence = "line 2: x1 is 11, but the image has 10 voxels along x"
    with pytest.raises(DatasetError, match=sentence):
        canonical_boxes([case])
    with pytest.raises(DatasetError, match=sentence):
        read_labels(case, read_volume(case.images[0]))


def test_changed_boxes_are_changed_labels(folder: Path, tmp_path: Path) -> None:
    def hashes() -> dict[str, str]:
        return hash_inputs(Dataset.open(folder).training_cases, tmp_path / "inputs.json")

    before = hashes()
    _file(folder, "a,1,0,0,0,1,1,1", "b,1,1,1,1,3,3,3", "b,1,5,5,5,8,9,9")
    after = hashes()
    assert after["a"] == before["a"]  # its label map counts, boxes beside it are no label
    assert after["b"] != before["b"]


def test_neither_label_nor_box_is_refused_and_listed(folder: Path) -> None:
    _file(folder, "a,1,0,0,0,1,1,1")
    sentence = "b has an image but no label, nor a row in boxesTr.csv"
    with pytest.raises(DatasetError, match=sentence):
        _ = Dataset.open(folder).training_cases
    (problem,) = check_dataset(folder)
    assert sentence in problem


def test_boxes_beyond_an_image_and_broken_files_are_listed(folder: Path) -> None:
    _file(folder, "b,1,1,1,1,3,3,11")
    assert check_dataset(folder) == [
        f"{folder}/boxesTr.csv: line 2: x1 is 11, but the image has 10 voxels along x."
    ]
    _file(folder, "b,7,1,1,1,3,3,3")
    assert "no structure of label 7" in check_dataset(folder)[0]
