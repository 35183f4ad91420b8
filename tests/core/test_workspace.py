from pathlib import Path

import pytest

from renalplan.errors import UsageError
from renalplan.workspace import Workspace

NAMES = ("Dataset101_Kidney", "Task102_Artery", "Dataset220_KiTS2023", "notes")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("RENALPLAN_WORKSPACE", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        (tmp_path / "w" / "raw" / name).mkdir(parents=True)
    return Workspace(tmp_path / "w")


def test_the_given_folder_then_the_variable_then_the_default(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Workspace.find().root == Path("renalplan_workspace")
    monkeypatch.setenv("RENALPLAN_WORKSPACE", "elsewhere")
    assert Workspace.find().root == Path("elsewhere")
    assert Workspace.find("here").root == Path("here")


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Workspace.find("~/work").root == tmp_path / "work"


def test_each_kind_of_result_has_its_place(workspace: Workspace) -> None:
    root = workspace.root
    assert workspace.preprocessed("D") == root / "preprocessed" / "D"
    assert workspace.plan_folder("D", "renal") == root / "preprocessed" / "D" / "renal"
    assert workspace.results("D") == root / "results" / "D"


@pytest.mark.parametrize("task", ["101", "0101", "Dataset101_Kidney"])
def test_a_dataset_is_found_by_number_and_name(workspace: Workspace, task: str) -> None:
    assert workspace.dataset_folder(task) == workspace.root / "raw" / "Dataset101_Kidney"


def test_old_task_folders_count(workspace: Workspace) -> None:
    assert workspace.dataset_folder("102").name == "Task102_Artery"


def test_a_dataset_is_found_by_path(workspace: Workspace) -> None:
    path = workspace.root / "raw" / "notes"
    assert workspace.dataset_folder(str(path)) == path
    with pytest.raises(UsageError, match="dataset folder gone/Dataset101_Kidney does not exist"):
        workspace.dataset_folder("gone/Dataset101_Kidney")


def test_a_number_of_two_datasets_is_ambiguous(workspace: Workspace) -> None:
    (workspace.root / "raw" / "Dataset101_Spleen").mkdir()
    with pytest.raises(UsageError, match=r"TASK 101 is ambiguous: .*_Kidney, .*_Spleen"):
        workspace.dataset_folder("101")
    assert workspace.dataset_folder("Dataset101_Spleen").name == "Dataset101_Spleen"


def test_a_near_miss_is_suggested(workspace: Workspace) -> None:
    with pytest.raises(
        UsageError, match=r"no dataset 'Dataset101_Kidny' .* mean Dataset101_Kidney"
    ):
        workspace.dataset_folder("Dataset101_Kidny")


@pytest.mark.parametrize("task", ["7", "²", "zzz"])
def test_without_a_near_miss_the_places_are_named(workspace: Workspace, task: str) -> None:
    with pytest.raises(UsageError, match=rf"no dataset '{task}' in .*raw\. Give a path"):
        workspace.dataset_folder(task)


def test_an_empty_workspace_has_no_datasets(workspace: Workspace, tmp_path: Path) -> None:
    empty = Workspace(tmp_path / "empty")
    assert empty.dataset_folders() == []
    with pytest.raises(UsageError, match="no dataset '1'"):
        empty.dataset_folder("1")


def test_the_raw_folder_of_nnunet_is_honoured(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs" / "Dataset300_Liver").mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "theirs"))
    assert workspace.dataset_folder("300") == tmp_path / "theirs" / "Dataset300_Liver"
    assert workspace.dataset_folder("101").name == "Dataset101_Kidney"
    with pytest.raises(UsageError, match=r"in .*w/raw and .*theirs\."):
        workspace.dataset_folder("999")


def test_one_folder_under_both_names_is_looked_through_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(workspace.root / "raw"))
    assert workspace.dataset_folder("101").name == "Dataset101_Kidney"


@pytest.fixture
def named(workspace: Workspace) -> Workspace:
    """One dataset is only in raw/, one only in preprocessed/, one in both."""
    for folder in (
        "raw/Dataset101_Kidney",
        "raw/Task102_Artery",
        "preprocessed/Dataset101_Kidney",
        "preprocessed/Dataset103_Away",
        "results/Dataset104_Model",
    ):
        (workspace.root / folder).mkdir(parents=True, exist_ok=True)
        (workspace.root / folder / "dataset.json").write_text("{}")
    return workspace


@pytest.mark.parametrize(
    ("asked", "folder"),
    [
        ("101", "raw/Dataset101_Kidney"),
        ("Dataset101_Kidney", "raw/Dataset101_Kidney"),
        ("102", "raw/Task102_Artery"),
        ("0103", "preprocessed/Dataset103_Away"),
        ("w/results/Dataset104_Model", "results/Dataset104_Model"),
        ("w/raw/Task102_Artery/dataset.json", "raw/Task102_Artery"),
    ],
)
def test_what_names_labels_is_found_by_path_number_and_name(
    named: Workspace, asked: str, folder: str
) -> None:
    found = named.label_names(asked, "--labels")
    assert found.resolve() == named.root / folder / "dataset.json"


def test_a_path_comes_before_a_dataset_of_that_number(named: Workspace, tmp_path: Path) -> None:
    (tmp_path / "101").mkdir()
    assert named.label_names("101", "--labels") == Path("101/dataset.json")


def test_what_names_no_labels_is_told_with_the_option_and_the_places(named: Workspace) -> None:
    for asked in ("7", "²", "Dataset220_KiTS2023", "gone/dataset.json"):
        places = rf"dataset in {named.root}/raw and {named.root}/preprocessed;.*RENALPLAN_WORKSPACE"
        with pytest.raises(UsageError, match=f"--labels {asked} does not exist, nor is .*{places}"):
            named.label_names(asked, "--labels")
    other = named.root / "preprocessed" / "Dataset101_Spleen"
    other.mkdir()
    (other / "dataset.json").write_text("{}")
    with pytest.raises(UsageError, match=r"--labels 101 is ambiguous: .*_Kidney, .*_Spleen"):
        named.label_names("101", "--labels")
