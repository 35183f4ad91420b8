"""What the planning command keeps and redoes, beyond what planners and the store test themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from renalplan.dataset import Dataset
from renalplan.errors import DatasetError
from renalplan.planning import plan_and_preprocess
from renalplan.store import open_items
from renalplan.workspace import Workspace


@pytest.fixture
def preprocess(
    tmp_path: Path, make_dataset: Callable[..., Path]
) -> Callable[..., tuple[int, Path]]:
    """Edit dataset.json, preprocess, and give the number of cases done and the plan's folder."""
    folder = make_dataset()
    path = folder / "dataset.json"

    def run(**changes: Any) -> tuple[int, Path]:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        planned = plan_and_preprocess(
            str(folder), workspace=Workspace(tmp_path / "w"), workers=0, progress=False
        )
        return planned.stored, planned.folder

    return run


def test_a_label_given_another_name_reaches_the_store(
    preprocess: Callable[..., tuple[int, Path]],
) -> None:
    assert preprocess()[0] == 3
    assert preprocess()[0] == 0
    stored, folder = preprocess(labels={"background": 0, "renal": 1, "mass": 2})
    assert stored == 3
    fingerprint = json.loads((folder.parent / "fingerprint.json").read_text())
    assert fingerprint["label_names"] == ["renal", "mass"]
    stages = [path for path in folder.iterdir() if path.is_dir()]
    assert stages
    for stage in stages:
        for item in open_items(stage, ("case_1",)):
            assert list(item.item.structures) == ["renal", "mass"]


def test_what_dataset_json_only_describes_redoes_nothing(
    preprocess: Callable[..., tuple[int, Path]],
) -> None:
    assert preprocess()[0] == 3
    assert preprocess(licence="CC0", numTraining=3)[0] == 0


def test_the_dataset_as_planned_is_kept(preprocess: Callable[..., tuple[int, Path]]) -> None:
    _, folder = preprocess()
    kept = json.loads((folder.parent / "dataset.json").read_text())
    assert kept["labels"] == {"background": 0, "kidney": 1, "tumour": 2}
    assert Dataset.open(folder.parent).scheme.names == ("background", "kidney", "tumour")


@pytest.fixture
def with_extra(make_dataset: Callable[..., Path], tmp_path: Path) -> tuple[Path, Workspace]:
    """Three labelled cases and one that is not."""
    return make_dataset(unlabelled=["extra"]), Workspace(tmp_path / "w")


def _run(folder: Path, workspace: Workspace) -> tuple[int, Path]:
    planned = plan_and_preprocess(str(folder), workspace=workspace, workers=0, progress=False)
    return planned.stored, planned.folder


def test_unlabelled_images_are_stored_whole_beside_the_others(
    with_extra: tuple[Path, Workspace],
) -> None:
    stored, folder = _run(*with_extra)
    assert stored == 4
    for stage in (path for path in folder.iterdir() if path.is_dir()):
        (item,) = open_items(stage, ("extra",))
        assert item.item.structures == {}
        assert not list(stage.glob("extra.*labels*"))
        assert not list(stage.glob("extra.*places*"))
        assert item.image.shape == (1, *item.item.shape)
    assert _run(*with_extra)[0] == 0


def test_unlabelled_images_change_neither_plan_nor_folds(
    with_extra: tuple[Path, Workspace], tmp_path: Path
) -> None:
    folder, workspace = with_extra
    away = (folder / "imagesUn").rename(tmp_path / "away")
    stored, plan_folder = _run(folder, workspace)
    assert stored == 3
    kept = [plan_folder / "plan.json", *plan_folder.parent.glob("*.json")]
    names = {"fingerprint.json", "splits.json", "plan.json"}
    before = {path: path.read_bytes() for path in kept if path.name in names}
    assert len(before) == 3
    away.rename(folder / "imagesUn")
    assert _run(folder, workspace) == (1, plan_folder)  # the new one alone
    assert {path: path.read_bytes() for path in before} == before
    assert "extra" not in (plan_folder.parent / "splits.json").read_text()


def test_a_changed_unlabelled_image_is_stored_again_alone(
    with_extra: tuple[Path, Workspace],
    write: Callable[..., Path],
    make_scan: Callable[..., Any],
) -> None:
    folder, _ = with_extra
    assert _run(*with_extra)[0] == 4
    write(folder / "imagesUn" / "extra_0000.nii.gz", make_scan(77))
    assert _run(*with_extra)[0] == 1


def test_a_case_both_labelled_and_not_is_refused_before_any_work(
    with_extra: tuple[Path, Workspace],
) -> None:
    folder, workspace = with_extra
    (folder / "imagesUn" / "extra_0000.nii.gz").rename(folder / "imagesUn" / "case_2_0000.nii.gz")
    with pytest.raises(DatasetError, match="imagesUn and imagesTr both have case_2"):
        _run(folder, workspace)
    assert not workspace.preprocessed(folder.name).exists()
