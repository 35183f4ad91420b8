"""What `--labels` and `--tolerance` accept, and what they score."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.asked import choose_structures
from renalplan.evaluation.evaluate import evaluate_folders
from renalplan.evaluation.kits import hierarchical
from renalplan.evaluation.structures import Structures
from renalplan.evaluation.tolerance import KITS_MM, parse_tolerance
from renalplan.labels import LabelScheme

CYSTS = LabelScheme(
    names=("background", "kidney", "tumor", "cyst"), values=((0,), (1,), (2,), (3,))
)


def choose(references: Path, *labels: str, tolerance: str = "") -> Structures:
    return choose_structures(None, labels, parse_tolerance(tolerance.split()), references, [])


def test_words_choose_among_the_datasets_structures(folders: tuple[Path, Path]) -> None:
    references = folders[1]
    assert list(choose(references).scheme.foreground) == ["kidney", "tumor"]
    found = choose(references, "tumor", "both=2,1")
    assert found.scheme.foreground == {"tumor": (2,), "both": (1, 2)}
    assert found.declared == (0, 1, 2)
    assert found.ct
    assert found.source == "dataset.json and --labels"


def test_a_description_may_come_first(folders: tuple[Path, Path], tmp_path: Path) -> None:
    description = tmp_path / "other.json"
    text = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "spleen": 1}}
    description.write_text(json.dumps(text))
    assert list(choose(folders[1], str(description)).scheme.foreground) == ["spleen"]
    found = choose(folders[1], str(tmp_path / "data"), "kidney")
    assert list(found.scheme.foreground) == ["kidney"]


def test_own_names_need_no_description(tmp_path: Path) -> None:
    found = choose(tmp_path, "mass=3,2")
    assert found.scheme.foreground == {"mass": (2, 3)}
    assert found.declared == ()  # any value may be in the files


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("spleen", "there is no such structure .* there are kidney, tumor"),
        ("mass=", "needs the form NAME=VALUES"),
        ("=2", "needs the form NAME=VALUES"),
        ("mass=0", "needs the form NAME=VALUES"),
        ("mass=2,x", "needs the form NAME=VALUES"),
        ("kidney=1 kidney", "kidney is named twice"),
    ],
)
def test_other_words_are_refused(folders: tuple[Path, Path], word: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        choose(folders[1], *word.split())


def test_a_value_that_no_file_and_no_description_knows_is_refused(
    folders: tuple[Path, Path], write: Callable[..., Path]
) -> None:
    predictions, references = folders
    with pytest.raises(UsageError, match=r"both=1,9: no file holds the value 9, and dataset\.json"):
        evaluate_folders(predictions, references, labels=["both=1,9"])
    write(predictions / "b.mha", {1: 9, 9: 1})
    found = evaluate_folders(predictions, references, labels=["both=1,9"])
    assert found.summary.structures["both"].scores["dice"].mean > 0
    (references.parent / "dataset.json").unlink()
    with pytest.raises(UsageError, match=r"own=7: no file holds the value 7\.$"):
        evaluate_folders(predictions, references, labels=["own=7"])


def test_names_without_a_description_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no dataset\.json that names structures"):
        choose(tmp_path, "kidney")


def test_kits_classes_hold_one_another(folders: tuple[Path, Path]) -> None:
    assert hierarchical(CYSTS) == {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
    found = choose(folders[1], "kits")
    assert found.scheme.foreground == {"kidney_and_tumor": (1, 2), "tumor": (2,)}
    assert found.tolerance.mm("tumor") == KITS_MM["tumor"]
    assert found.tolerance.mm("kidney_and_tumor") == KITS_MM["kidney_and_mass"]
    assert choose(folders[1], "kits", tolerance="2").tolerance.mm("tumor") == 2


def test_kits_classes_of_regions() -> None:
    regions = LabelScheme(
        names=("kidney", "mass", "tumor"),
        values=((1, 2, 3), (2, 3), (2,)),
        region_values=(1, 3, 2),
    )
    assert hierarchical(regions) == hierarchical(CYSTS)
    with pytest.raises(UsageError, match="needs structures with kidney and tumor in their names"):
        hierarchical(LabelScheme(names=("background", "vein"), values=((0,), (1,))))


def test_tolerances_are_for_all_or_one(folders: tuple[Path, Path]) -> None:
    usual = choose(folders[1]).tolerance
    assert usual.mm("kidney") == 1
    found = choose(folders[1], tolerance="2 tumor=0").tolerance
    assert (found.mm("kidney"), found.mm("tumor")) == (2, 0)
    with pytest.raises(UsageError, match="--tolerance cyst: there is no such structure"):
        choose(folders[1], tolerance="cyst=2")


@pytest.mark.parametrize("text", ["far", "-1", "nan", "inf", "tumor=", "=2", "tumor=wide"])
def test_malformed_tolerances_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="needs the form MM or NAME=MM"):
        parse_tolerance([text])


def test_folders_are_scored_as_asked(folders: tuple[Path, Path], tmp_path: Path) -> None:
    result = evaluate_folders(
        *folders, out=tmp_path / "out", labels=["kits"], tolerance=["tumor=3"], cases=["a", "b"]
    )
    assert list(result.summary.structures) == ["kidney_and_tumor", "tumor"]
    assert result.summary.structures["tumor"].tolerance_mm == 3
    organ, tumor = (result.summary.structures[n] for n in ("kidney_and_tumor", "tumor"))
    assert organ.lesions is None
    assert tumor.lesions is not None
    assert (tumor.lesions.found, tumor.lesions.missed, tumor.lesions.false) == (1, 0, 0)
    assert "Lesions of all cases" in result.files[2].read_text()


def test_a_scored_part_still_knows_the_other_values(
    folders: tuple[Path, Path], write: Callable[..., Path]
) -> None:
    result = evaluate_folders(*folders, labels=["tumor"], cases=["a", "b"])
    assert set(result.table["structure"]) == {"tumor"}  # and label 1 is no mistake
    write(folders[0] / "a.nrrd", {9: 1})
    with pytest.raises(DatasetError, match=r"holds label values \[9\]"):
        evaluate_folders(*folders, labels=["tumor"], cases=["a"])
