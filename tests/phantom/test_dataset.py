"""The written folder: layout, independence of case count and workers, boxes, dressed masks."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from renalplan.errors import DatasetError, UsageError
from renalplan.geometry import Grid
from renalplan.images import read_grid, read_volume, write_file_array
from renalplan.phantom import make_phantom_dataset

TINY = (24, 32, 32)
REAL = Path(os.environ.get("RENALPLAN_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))


def array(path: Path) -> np.ndarray:
    result: np.ndarray = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return result


def test_folder_has_the_raw_layout(tmp_path: Path) -> None:
    told: list[str] = []
    out = make_phantom_dataset(
        tmp_path / "Dataset001_Phantom",
        cases=2,
        test_cases=1,
        unlabelled_cases=1,
        task="compartments",
        size=TINY,
        progress=told.append,
    )
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))
    assert found == [
        "imagesTr/case_0000_0000.nii.gz",
        "imagesTr/case_0000_0001.nii.gz",
        "imagesTr/case_0001_0000.nii.gz",
        "imagesTr/case_0001_0001.nii.gz",
        "imagesTs/case_0002_0000.nii.gz",
        "imagesTs/case_0002_0001.nii.gz",
        "imagesUn/case_0003_0000.nii.gz",
        "imagesUn/case_0003_0001.nii.gz",
        "labelsTr/case_0000.nii.gz",
        "labelsTr/case_0001.nii.gz",
        "labelsTs/case_0002.nii.gz",
    ]
    assert sorted(told)[0] == "case_0000 written (1 of 4)"
    assert len(told) == 4
    description = json.loads((out / "dataset.json").read_text())
    assert description["channel_names"] == {"0": "CTA", "1": "CTU"}
    assert description["labels"] == {"background": 0, "cortex": 1, "medulla": 2}
    assert description["numTraining"] == 2
    assert description["file_ending"] == ".nii.gz"
    assert sorted(description["patients"]) == [f"case_{i:04d}" for i in range(4)]
    truth = json.loads((out / "phantom_truth.json").read_text())
    assert truth["case_0000"]["phases"] == ["arterial", "excretory"]


def test_cases_do_not_depend_on_their_number_or_the_workers(tmp_path: Path) -> None:
    few = make_phantom_dataset(tmp_path / "few", cases=1, seed=5, size=TINY)
    many = make_phantom_dataset(tmp_path / "many", cases=2, seed=5, size=TINY, workers=2)
    for name in ("imagesTr/case_0000_0000.nii.gz", "labelsTr/case_0000.nii.gz"):
        np.testing.assert_array_equal(array(few / name), array(many / name))
        assert read_grid(few / name) == read_grid(many / name)


def test_all_patients_or_none_have_a_single_kidney(tmp_path: Path) -> None:
    for share, kidneys in ((1.0, 1), (0.0, 2)):
        out = make_phantom_dataset(
            tmp_path / f"{kidneys}", cases=3, size=TINY, single_kidney_share=share
        )
        truth = json.loads((out / "phantom_truth.json").read_text())
        assert [case["kidney_count"] for case in truth.values()] == [kidneys] * 3
        assert all(len(case["kidney_ml"]) == kidneys for case in truth.values())


def test_boxes_contain_exactly_the_tumor(tmp_path: Path) -> None:
    out = make_phantom_dataset(tmp_path / "boxes", cases=2, task="boxes", size=(40, 64, 64))
    with (out / "boxesTr.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["case", "label", "z0", "y0", "x0", "z1", "y1", "x1"]
    for case in ("case_0000", "case_0001"):
        tumor = array(out / "labelsTr" / f"{case}.nii.gz") == 1
        inside = np.zeros_like(tumor)
        for row in (row for row in rows if row["case"] == case):
            z0, y0, x0, z1, y1, x1 = (int(row[key]) for key in list(row)[2:])
            box = tumor[z0:z1, y0:y1, x0:x1]
            for axis in range(3):  # tight: each face of the box touches the tumor
                assert box.take([0], axis).any()
                assert box.take([-1], axis).any()
            inside[z0:z1, y0:y1, x0:x1] = True
        assert tumor.any()
        assert not (tumor & ~inside).any()


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    """One artificial label map whose file axes are (z, y, x), z running to the feet."""
    shape = (44, 72, 72)  # canonical (z, y, x), 4 mm
    z, y, x = np.meshgrid(*(np.arange(n) * 4.0 for n in shape), indexing="ij")
    labels = np.zeros(shape, np.uint8)
    for middle in (76.0, 208.0):
        labels[((z - 90) / 50) ** 2 + ((y - 170) / 24) ** 2 + ((x - middle) / 28) ** 2 < 1] = 1
    labels[(z - 60) ** 2 + (y - 150) ** 2 + (x - 190) ** 2 < 18**2] = 2
    stored = labels[::-1].transpose(2, 1, 0)  # file array (k, j, i) = (x, y, -z)
    grid = Grid(
        size=stored.shape[::-1],
        spacing=(4.0, 4.0, 4.0),
        origin=(-150.0, -120.0, 900.0),
        # columns: file axis i runs to the feet, j to the back, k to the left
        direction=(0.0, 0.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0),
    )
    folder = tmp_path / "masks"
    folder.mkdir()
    write_file_array(folder / "patient_7.nii.gz", np.ascontiguousarray(stored), grid)
    return folder


def test_dressed_mask_keeps_labels_and_geometry(mask_folder: Path, tmp_path: Path) -> None:
    source = mask_folder / "patient_7.nii.gz"
    out = make_phantom_dataset(tmp_path / "dressed", cases=1, from_masks=mask_folder)
    image_path = out / "imagesTr" / "patient_7_0000.nii.gz"
    label_path = out / "labelsTr" / "patient_7.nii.gz"
    assert read_grid(image_path) == read_grid(source) == read_grid(label_path)
    np.testing.assert_array_equal(array(label_path), array(source))
    image, labels = array(image_path), array(source)
    assert 120 < image[labels == 1].mean() < 320  # enhanced parenchyma
    canonical = read_volume(image_path).array[0]
    assert canonical[:, :2, :2].mean() < -900  # air in the corner


def test_masks_are_split_by_name_and_must_suffice(mask_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds 1 label maps, but 2 cases"):
        make_phantom_dataset(tmp_path / "x", cases=1, test_cases=1, from_masks=mask_folder)
    with pytest.raises(UsageError, match="works for the task kidney_tumor"):
        make_phantom_dataset(tmp_path / "x", cases=1, task="artery", from_masks=mask_folder)


def test_mask_with_other_labels_is_refused(mask_folder: Path, tmp_path: Path) -> None:
    path = mask_folder / "patient_7.nii.gz"
    write_file_array(path, array(path) * 2, read_grid(path))
    with pytest.raises(DatasetError, match="needs kidneys with label 1"):
        make_phantom_dataset(tmp_path / "x", cases=1, from_masks=mask_folder)


@pytest.mark.skipif(not (REAL / "kits19_masks").is_dir(), reason="the real masks are not here")
def test_real_mask_can_be_dressed(tmp_path: Path) -> None:
    source = REAL / "kits19_masks" / "case_00110.nii.gz"  # 34 slices of 5 mm
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / source.name).symlink_to(source.resolve())
    out = make_phantom_dataset(tmp_path / "real", cases=1, from_masks=folder)
    image_path = out / "imagesTr" / "case_00110_0000.nii.gz"
    assert read_grid(image_path) == read_grid(source)
    labels = read_volume(source, labels=True).array[0]
    image = read_volume(image_path).array[0]
    np.testing.assert_array_equal(
        read_volume(out / "labelsTr" / "case_00110.nii.gz", labels=True).array[0], labels
    )
    assert 100 < image[labels == 1].mean() < 350


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cases": 0}, "at least 1 case"),
        ({"cases": 1, "test_cases": -1}, "cannot be negative"),
        ({"cases": 1, "task": "heart"}, "There is no phantom task 'heart'"),
        ({"cases": 1, "file_ending": ".png"}, "Unknown file ending"),
        ({"cases": 1, "size": (12, 40, 40)}, "at least 16 voxels"),
        ({"cases": 1, "from_masks": Path("nowhere")}, "not a folder"),
        ({"cases": 1, "single_kidney_share": 1.5}, "between 0 and 1, got 1.5"),
        ({"cases": 1, "single_kidney_share": -0.1}, "between 0 and 1, got -0.1"),
        ({"cases": 1, "from_masks": Path(), "single_kidney_share": 0.5}, "share of single kid"),
    ],
)
def test_impossible_data_sets_are_refused(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_phantom_dataset(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_existing_data_set_is_not_overwritten(tmp_path: Path) -> None:
    out = make_phantom_dataset(tmp_path / "out", cases=1, size=(16, 16, 16))
    with pytest.raises(UsageError, match="already holds a data set"):
        make_phantom_dataset(out, cases=1)
