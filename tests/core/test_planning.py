"""What the planning command keeps and redoes, beyond what planners and the store test themselves."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from renalplan.dataset import Dataset
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
