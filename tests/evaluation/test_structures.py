from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from renalplan.errors import DatasetError
from renalplan.evaluation.structures import find_structures
from renalplan.labels import LabelScheme


def test_a_given_scheme_wins(tmp_path: Path, scheme: LabelScheme) -> None:
    assert find_structures(scheme, tmp_path, []).scheme is scheme


@pytest.mark.parametrize("given", ["file", "folder", "nothing"])
def test_dataset_json_is_read_or_found_above_the_references(
    folders: tuple[Path, Path], given: str
) -> None:
    data = folders[1].parent
    what = {"file": data / "dataset.json", "folder": data, "nothing": None}[given]
    found = find_structures(what, folders[1], [])
    assert list(found.scheme.foreground) == ["kidney", "tumor"]
    assert found.ct is True


def test_without_names_the_values_present_are_scored(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    folder = tmp_path / "deep" / "labels"
    files = [write(folder / "a.nii", {1: 2}), write(folder / "b.nii", {3: 2})]
    found = find_structures(None, folder, files)
    assert found.scheme.foreground == {"label 1": (1,), "label 3": (3,)}
    assert found.ct is None
    with pytest.raises(DatasetError, match="nothing to score"):
        find_structures(None, folder, [write(folder / "c.nii", {})])


def test_a_missing_dataset_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.json does not exist"):
        find_structures(tmp_path / "nowhere.json", tmp_path, [])
