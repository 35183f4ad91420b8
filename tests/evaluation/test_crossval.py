from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.crossval import gather_folds

HEAD = (
    "case,structure,dice,iou,sensitivity,precision,surface_dice,cldice,hausdorff_mm,hd95_mm,"
    "average_hausdorff_mm,assd_mm,centerline_mm,lesions_found,lesions_missed,lesions_false,"
    "reference_ml,predicted_ml,volume_error_ml,tolerance_mm,note\n"
)
OLD_HEAD = "case,structure,dice,iou,sensitivity,precision,reference_ml,predicted_ml,note\n"


def fold(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "per_case.csv").write_text(HEAD + "".join(f"{row}\n" for row in rows))
    return folder


def line(
    case: str,
    dice: float | str,
    structure: str = "kidney",
    note: str = "",
    centerline: str = "",
    hd95: str = "8.0",
) -> str:
    lesions = "1,0,2" if structure == "tumor" else ",,"
    return (
        f"{case},{structure},{dice},0.5,0.5,0.5,0.5,{centerline and 0.5},9.0,{hd95},2.0,1.5,"
        f"{centerline},{lesions},1.0,1.0,0.0,1.0,{note}"
    )


def test_folds_become_one_sample(tmp_path: Path) -> None:
    folders = {
        1: fold(tmp_path / "1", line("NA", 0.3)),
        0: fold(tmp_path / "0", line("007", 0.9), line("008", 0.6, note="missing")),
    }
    result = gather_folds(folders, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "crossval.json").read_text())
    dice = written["overall"]["structures"]["kidney"]["scores"]["dice"]
    assert dice["mean"] == pytest.approx(0.6)  # of three cases, not of two fold means
    assert dice["sd"] == pytest.approx(0.3)
    assert dice["median"] == pytest.approx(0.6)
    assert written["fold_means"]["kidney"]["dice"] == pytest.approx({"0": 0.75, "1": 0.3})
    assert written["cases_of_folds"] == {"0": 2, "1": 1}
    assert written["overall"]["missing"] == ["008"]
    table = pd.read_csv(tmp_path / "out" / "crossval.csv", dtype=str, keep_default_na=False)
    assert list(table["case"]) == ["007", "008", "NA"]
    assert list(table["fold"]) == ["0", "0", "1"]
    assert list(result.table["dice"]) == [0.9, 0.6, 0.3]
    assert "Cross-validation, 2 folds" in (tmp_path / "out" / "crossval.html").read_text()


def test_only_tubes_have_a_centerline(tmp_path: Path) -> None:
    folders = {
        i: fold(tmp_path / str(i), line(f"c{i}", 1), line(f"c{i}", 1, "artery", centerline=f"{i}"))
        for i in (1, 2)
    }
    summary = gather_folds(folders, tmp_path / "out").summary
    assert "centerline_mm" not in summary.overall.structures["kidney"].scores
    assert "centerline_mm" not in summary.fold_means["kidney"]
    assert summary.fold_means["artery"]["centerline_mm"] == {1: 1.0, 2: 2.0}
    assert summary.fold_means["kidney"]["average_hausdorff_mm"] == {1: 2.0, 2: 2.0}
    assert summary.overall.means["centerline_mm"] == 1.5
    table = pd.read_csv(tmp_path / "out" / "crossval.csv", dtype=str, keep_default_na=False)
    assert list(table["centerline_mm"]) == ["", "1.0", "", "2.0"]


def test_page_can_be_left_out(tmp_path: Path) -> None:
    result = gather_folds({0: fold(tmp_path / "0", line("a", 1))}, tmp_path / "out", page=False)
    assert [path.name for path in result.files] == ["crossval.csv", "crossval.json"]


def test_a_case_counts_once(tmp_path: Path) -> None:
    folders = {i: fold(tmp_path / str(i), line("a", 1)) for i in (0, 1)}
    with pytest.raises(DatasetError, match="a is in folds 0 and 1"):
        gather_folds(folders, tmp_path / "out")


def test_the_page_has_each_fold_and_links_its_own_page(tmp_path: Path) -> None:
    folders = {i: fold(tmp_path / f"fold_{i}" / "validation", line(f"c{i}", i / 4)) for i in (1, 2)}
    (folders[1] / "summary.html").write_text("")
    page = gather_folds(folders, tmp_path).files[2].read_text()
    assert '<a href="fold_1/validation/summary.html">Fold 1</a>' in page
    assert "<th>Fold 2</th>" in page  # its page is not there
    assert "<td>0.250</td><td>0.500</td>" in page


def test_folds_need_one_tolerance(tmp_path: Path) -> None:
    other = line("b", 1).replace(",1.0,1.0,0.0,1.0,", ",1.0,1.0,0.0,2.0,")
    folders = {0: fold(tmp_path / "0", line("a", 1)), 1: fold(tmp_path / "1", other)}
    with pytest.raises(DatasetError, match="different tolerances of kidney"):
        gather_folds(folders, tmp_path / "out")


def test_folds_need_the_same_structures(tmp_path: Path) -> None:
    folders = {
        0: fold(tmp_path / "0", line("a", 1)),
        1: fold(tmp_path / "1", line("b", 1, "tumor")),
    }
    with pytest.raises(DatasetError, match="same structures"):
        gather_folds(folders, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "does not exist; evaluate these cases first"),
        ("", "cannot be read as a table"),
        ("case,dice\na,1\n", "lacks the columns"),
        (HEAD, "has no rows"),
        (OLD_HEAD + "a,kidney,1,1,1,1,2,2,\n", r"lacks the columns \['surface_dice'.*cases again"),
        (HEAD + line("a", "good"), "cannot be read as a table"),
        (HEAD + line("a", "nan"), "not finite"),
        (HEAD + line("a", ""), "cannot be read as a table"),
        (HEAD + line("a", 0, hd95=""), "cannot be read as a table"),
        (HEAD + line("a", 0, "artery"), "cannot be read as a table"),
        (HEAD + line("a", 0, "artery", centerline="inf"), "not finite"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str | None, problem: str) -> None:
    if text is not None:
        (tmp_path / "per_case.csv").write_text(text)
    with pytest.raises(DatasetError, match=problem):
        gather_folds({0: tmp_path}, tmp_path / "out")


def test_no_fold_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one fold"):
        gather_folds({}, tmp_path)
