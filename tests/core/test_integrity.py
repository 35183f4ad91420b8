import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from renalplan.dataset import Dataset
from renalplan.errors import DatasetError
from renalplan.images import read_volume
from renalplan.integrity import check_dataset, quick_check

TURNED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
BROKEN = [
    "channel_gone",
    "constant",
    "cut",
    "direction",
    "empty_label",
    "garbage",
    "label_gone",
    "nan",
    "origin",
    "size",
    "spacing",
    "twice",
    "undeclared",
]


@pytest.fixture
def broken(make_dataset: Callable[..., Path], write: Callable[..., Path]) -> Path:
    """A dataset with one good case, and one case for everything that can be wrong with one."""
    folder = make_dataset(
        cases=["good", *BROKEN], channel_names={"0": "CTA", "1": "CTU"}, numTraining=99
    )

    def image(name: str) -> Path:
        return folder / "imagesTr" / f"{name}.nii.gz"

    def label(name: str) -> Path:
        return folder / "labelsTr" / f"{name}.nii.gz"

    scan = read_volume(image("good_0000")).array[0]
    labels = read_volume(label("good"), labels=True).array[0]
    image("channel_gone_0001").unlink()
    write(image("constant_0001"), np.full_like(scan, 7))
    content = image("cut_0000").read_bytes()
    image("cut_0000").write_bytes(content[: len(content) * 3 // 4])
    write(label("direction"), labels, direction=TURNED)
    write(label("empty_label"), np.zeros_like(labels))
    image("garbage_0000").write_bytes(b"garbage" * 50)
    label("label_gone").unlink()
    write(image("nan_0000"), np.where(scan == scan.max(), np.nan, scan))
    write(image("origin_0001"), scan, origin=(0.0, -40.0, 0.0))
    write(label("size"), labels[:-1])
    write(label("spacing"), labels, spacing=(1.0, 1.0, 2.5))
    write(folder / "imagesTr" / "twice_0000.nrrd", scan)
    write(label("undeclared"), labels + np.uint8(5) * (labels == 2))
    write(label("lonely"), labels)
    return folder


def test_all_problems_are_listed_at_once_a_line_each(broken: Path) -> None:
    expected = [
        ("twice_0000.nii.gz and twice_0000.nrrd", "keep twice_0000.nii.gz"),
        ("channel_gone_0001 (CTU)", "is missing"),
        ("label_gone.nii.gz", "is missing: label_gone has an image but no label"),
        ("lonely.nii.gz", "has no image in imagesTr"),
        ("dataset.json", "numTraining is 99", "imagesTr holds 14 cases"),
        ("constant_0001.nii.gz", "every voxel is 7"),
        ("cut_0000.nii.gz", "truncated"),
        ("direction.nii.gz", "(1, 0, 0, 0, 1, 0, 0, 0, 1) against (-1, 0, 0, 0, -1, 0, 0, 0, 1)"),
        ("empty_label.nii.gz", "no voxel belongs to any structure"),
        ("garbage_0000.nii.gz", "cannot be read as an image"),
        ("nan_0000.nii.gz", "NaN"),
        ("origin_0001.nii.gz", "origin (0, 0, 0) against (0, -40, 0) mm"),
        ("size.nii.gz", "size (12, 10, 8) against (12, 10, 7) voxels"),
        ("spacing.nii.gz", "spacing (1, 1, 1) against (1, 1, 2.5) mm"),
        ("undeclared.nii.gz", "[7]", "[0, 1, 2]"),  # 2 + 5
    ]
    problems = check_dataset(Dataset.open(broken))
    assert len(problems) == len(expected), "\n".join(problems)
    for line, words in zip(problems, expected, strict=True):
        assert "\n" not in line
        for word in words:
            assert word in line


def test_the_quick_check_stops_at_the_first_and_counts_the_rest(broken: Path) -> None:
    # of the 15 problems, headers and lengths do not show four: constant, empty, NaN, undeclared
    with pytest.raises(DatasetError, match=r"twice_0000.* \(10 more problems: renalplan_check"):
        quick_check(Dataset.open(broken))


def test_a_single_problem_is_not_counted(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset()
    (folder / "labelsTr" / "case_2.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"has an image but no label\.$"):
        quick_check(Dataset.open(folder))


def test_a_sound_dataset_has_no_problems(make_dataset: Callable[..., Path]) -> None:
    dataset = Dataset.open(make_dataset(numTraining=3))
    seen: list[str] = []
    assert check_dataset(dataset, on_case=seen.append) == []
    assert seen == ["case_1", "case_2", "case_3"]
    quick_check(dataset)


def test_the_ignore_value_is_declared_but_no_structure(
    make_dataset: Callable[..., Path], write: Callable[..., Path]
) -> None:
    folder = make_dataset(cases=["a"], labels={"background": 0, "kidney": 1, "ignore": 2})
    labels = read_volume(folder / "labelsTr" / "a.nii.gz", labels=True).array[0]
    write(folder / "labelsTr" / "a.nii.gz", labels * (labels == 2))
    problems = check_dataset(Dataset.open(folder))
    assert len(problems) == 1
    assert "no voxel belongs to any structure" in problems[0]


def test_a_folder_without_images_is_a_problem(
    tmp_path: Path, make_description: Callable[..., dict]
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(make_description()))
    dataset = Dataset.open(tmp_path)
    assert check_dataset(dataset) == [
        f"{tmp_path / 'imagesTr'} is missing; training images belong there."
    ]
    (tmp_path / "imagesTr").mkdir()
    assert check_dataset(dataset) == [
        f"{tmp_path / 'imagesTr'} has no images that end in _0000.nii.gz."
    ]


def test_unlabelled_images_are_looked_at_too(
    make_dataset: Callable[..., Path],
) -> None:
    folder = make_dataset(unlabelled=["cut", "extra"], numTraining=3)
    unlabelled = folder / "imagesUn"
    shutil.copy(folder / "imagesTr" / "case_1_0000.nii.gz", unlabelled)
    content = (unlabelled / "cut_0000.nii.gz").read_bytes()
    (unlabelled / "cut_0000.nii.gz").write_bytes(content[: len(content) * 3 // 4])
    (unlabelled / "extra_0000.nii.gz").rename(unlabelled / "extra.nii.gz")
    problems = check_dataset(Dataset.open(folder))
    expected = [
        ("extra.nii.gz is not used", "_0000.nii.gz"),
        ("imagesUn and imagesTr both have case_1",),
        ("cut_0000.nii.gz", "truncated"),
    ]
    assert len(problems) == len(expected), "\n".join(problems)
    for line, words in zip(problems, expected, strict=True):
        assert all(word in line for word in words)
    with pytest.raises(DatasetError, match=r"extra\.nii\.gz is not used"):
        quick_check(Dataset.open(folder))


@pytest.mark.parametrize(("channel", "lines"), [("CT_arterial", 1), ("MRI", 0), ("who knows", 0)])
def test_a_ct_whose_intercept_was_forgotten_is_named(
    make_dataset: Callable[..., Path], write: Callable[..., Path], channel: str, lines: int
) -> None:
    folder = make_dataset(cases=["good", "high"], channel_names={"0": channel})
    path = folder / "imagesTr" / "high_0000.nii.gz"
    write(path, np.clip(read_volume(path).array[0], -1024, None) + 1024)
    found = check_dataset(Dataset.open(folder))
    assert len(found) == lines
    if lines:
        assert f"{path} is CT without a value below 0 HU" in found[0]
