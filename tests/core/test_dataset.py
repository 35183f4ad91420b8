import json
from collections.abc import Callable
from pathlib import Path

import pytest

from renalplan.dataset import Dataset, find_images
from renalplan.errors import DatasetError

Build = Callable[..., Path]


def test_an_nnunet_folder_works_unchanged(make_dataset: Build) -> None:
    folder = make_dataset(
        numTraining=3,
        overwrite_image_reader_writer="SimpleITKIO",
        name_of_dataset="Kidney",
        reference="none",
        licence="CC BY 4.0",
        description="extra keys are kept",
    )
    dataset = Dataset.open(folder)
    assert dataset.name == "Dataset001_Test"
    assert [case.id for case in dataset.training_cases] == ["case_1", "case_2", "case_3"]
    first = dataset.training_cases[0]
    assert first.images == (folder / "imagesTr" / "case_1_0000.nii.gz",)
    assert first.label == folder / "labelsTr" / "case_1.nii.gz"
    assert first.patient == "case_1"
    assert dataset.unlabelled_cases == ()
    assert dataset.scheme.names == ("background", "kidney", "tumour")
    assert dataset.description.model_dump()["licence"] == "CC BY 4.0"


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_any_format_is_taken(make_dataset: Build, ending: str) -> None:
    dataset = Dataset.open(make_dataset(cases=["a", "b"], file_ending=ending))
    assert [case.images[0].name for case in dataset.training_cases] == [
        f"a_0000{ending}",
        f"b_0000{ending}",
    ]


def test_channels_come_in_their_order(make_dataset: Build) -> None:
    dataset = Dataset.open(make_dataset(channel_names={"1": "CTU", "0": "CTA"}))
    assert dataset.description.channels == ("CTA", "CTU")
    names = [path.name for path in dataset.training_cases[1].images]
    assert names == ["case_2_0000.nii.gz", "case_2_0001.nii.gz"]


def test_a_case_id_may_hold_numbers(make_dataset: Build) -> None:
    dataset = Dataset.open(make_dataset(cases=["kidney_0001_0002"]))
    assert dataset.training_cases[0].id == "kidney_0001_0002"


def test_other_files_in_the_folder_do_not_matter(make_dataset: Build) -> None:
    folder = make_dataset()
    for name in (".hidden_0000.nii.gz", ".tmp-1-x_0000.nii.gz", "readme.txt", "noch.nii.gz"):
        (folder / "imagesTr" / name).touch()
    assert len(Dataset.open(folder).training_cases) == 3


def test_patients_are_read_and_else_the_case_is_its_own(make_dataset: Build) -> None:
    dataset = Dataset.open(make_dataset(patients={"case_1": "P", "case_3": "P"}))
    assert [case.patient for case in dataset.training_cases] == ["P", "case_2", "P"]


def test_unlabelled_cases_need_no_label(make_dataset: Build) -> None:
    dataset = Dataset.open(make_dataset(unlabelled=["extra_2", "extra_1"]))
    assert [case.id for case in dataset.unlabelled_cases] == ["extra_1", "extra_2"]
    assert all(case.label is None for case in dataset.unlabelled_cases)
    assert len(dataset.training_cases) == 3


def test_a_case_with_and_without_labels_is_refused(make_dataset: Build) -> None:
    """Held out by its label, it would come back as an image to learn from."""
    folder = make_dataset(unlabelled=["extra", "extra_2"])
    for name in ("extra", "extra_2"):
        image = folder / "imagesUn" / f"{name}_0000.nii.gz"
        (folder / "imagesTr" / image.name).write_bytes(image.read_bytes())
        label = folder / "labelsTr" / "case_1.nii.gz"
        (folder / "labelsTr" / f"{name}.nii.gz").write_bytes(label.read_bytes())
    dataset = Dataset.open(folder)
    with pytest.raises(DatasetError, match=r"imagesUn and imagesTr both have extra, extra_2; rem"):
        _ = dataset.unlabelled_cases


def test_unlabelled_cases_have_patients_and_all_channels(make_dataset: Build) -> None:
    folder = make_dataset(
        unlabelled=["extra"],
        channel_names={"0": "CTA", "1": "CTU"},
        patients={"extra": "P", "case_1": "P"},
    )
    (extra,) = Dataset.open(folder).unlabelled_cases
    assert extra.patient == "P"
    assert [path.name for path in extra.images] == ["extra_0000.nii.gz", "extra_0001.nii.gz"]
    extra.images[1].unlink()
    with pytest.raises(DatasetError, match=r"imagesUn: extra_0001 \(CTU\) is missing"):
        _ = Dataset.open(folder).unlabelled_cases


def test_a_missing_channel_is_named(make_dataset: Build) -> None:
    folder = make_dataset(channel_names={"0": "CTA", "1": "CTU"})
    (folder / "imagesTr" / "case_2_0001.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case_2_0001 \(CTU\) is missing; .* 2 channels"):
        _ = Dataset.open(folder).training_cases


def test_a_channel_too_many_is_named(make_dataset: Build) -> None:
    folder = make_dataset()
    (folder / "imagesTr" / "case_2_0001.nii.gz").touch()
    with pytest.raises(
        DatasetError, match=r"case_2_0001.nii.gz reads as channel 1 of the case case_2"
    ):
        _ = Dataset.open(folder).training_cases


def test_a_missing_label_is_named(make_dataset: Build) -> None:
    folder = make_dataset()
    (folder / "labelsTr" / "case_3.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case_3.nii.gz is missing: case_3 has an image"):
        _ = Dataset.open(folder).training_cases


def test_no_images_of_the_stated_format(make_dataset: Build) -> None:
    folder = make_dataset()
    description = json.loads((folder / "dataset.json").read_text()) | {"file_ending": ".nrrd"}
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetError, match=r"imagesTr has no images that end in _0000.nrrd\."):
        _ = Dataset.open(folder).training_cases


def test_no_images_folder(tmp_path: Path, make_description: Callable[..., dict]) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(make_description()))
    with pytest.raises(DatasetError, match=r"imagesTr is not a folder\."):
        _ = Dataset.open(tmp_path).training_cases


def test_a_case_in_two_formats_is_refused(tmp_path: Path) -> None:
    for name in ("a_0000.nii.gz", "a_0000.nrrd"):
        (tmp_path / name).touch()
    with pytest.raises(DatasetError, match=r"a_0000.nrrd and a_0000.nii.gz are the same case"):
        find_images(tmp_path)
    assert list(find_images(tmp_path, ".nrrd")) == ["a"]


def test_what_is_no_dataset_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gone is not a folder"):
        Dataset.open(tmp_path / "gone")
    with pytest.raises(DatasetError, match=r"has no dataset\.json"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"file_ending": ".dcm"}, r"file_ending: .*'\.dcm' is not one of \.nii\.gz, "),
        ({"channel_names": {"1": "CT"}}, r'channel_names: .*keys must be "0", "1"'),
        ({"channel_names": {}}, "channel_names: "),
        ({"labels": None}, "labels: Field required"),
        ({"labels": {"background": 0, "kidney": "one"}}, "labels.kidney"),
        ({"labels": {"background": 0, "kidney": 2}}, "without gaps"),
    ],
)
def test_a_wrong_description_is_refused_by_key(
    tmp_path: Path, make_description: Callable[..., dict], changes: dict, sentence: str
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(make_description(**changes)))
    with pytest.raises(DatasetError, match=f"dataset.json: .*{sentence}"):
        Dataset.open(tmp_path)
