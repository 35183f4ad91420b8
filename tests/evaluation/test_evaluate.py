from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from renalplan.errors import DatasetError, UsageError
from renalplan.evaluation.columns import COLUMNS
from renalplan.evaluation.evaluate import evaluate_folders
from renalplan.evaluation.order import REPORT
from renalplan.geometry import Grid
from renalplan.images import write_volume
from renalplan.inference.report import REPORT as PREDICTED

Folders = tuple[Path, Path]


def test_two_folders_become_table_summary_and_page(folders: Folders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = evaluate_folders(*folders, out=out)
    assert [path.name for path in result.files] == ["per_case.csv", "summary.json", "summary.html"]
    assert sorted(path.name for path in out.iterdir()) == sorted(p.name for p in result.files)
    table = pd.read_csv(out / "per_case.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert list(table["case"]) == ["a", "a", "b", "b", "c", "c"]
    assert list(table["dice"]) == [0.5, 1, 1, 1, 0, 0]
    assert list(table["note"]) == ["", "", "", "both empty", "missing", "missing"]
    diagonal = (6**2 + 10**2 + 20**2) ** 0.5
    assert list(table["hausdorff_mm"][1:]) == pytest.approx([0, 0, 0, diagonal, diagonal])
    assert list(table["centerline_mm"]) == [""] * 6  # neither is a tube
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["cases"], summary["predictions"]) == (3, 2)
    assert (summary["missing"], summary["extra"]) == (["c"], ["d"])
    assert summary["structures"]["kidney"]["scores"]["dice"]["mean"] == pytest.approx(0.5)
    assert summary["means"]["dice"] == pytest.approx((1.5 / 3 + 2 / 3) / 2)
    assert summary["means"]["hd95_mm"] > 0
    assert "centerline_mm" not in summary["means"]
    assert any("both empty" in rule for rule in summary["conventions"])


def test_what_a_killed_run_left_is_taken_away_and_what_others_write_is_not(
    folders: Folders, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in (".tmp-12-per_case.csv", ".tmp-12-summary.html", ".tmp-12-case.nii.gz"):
        (out / name).touch()
    evaluate_folders(*folders, out=out)
    assert [path.name for path in out.glob(".*")] == [".tmp-12-case.nii.gz"]


def test_missing_and_extra_predictions_are_told(
    folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate_folders(*folders)
    assert "without prediction, counted as 0 (1): c" in caplog.text
    assert "without a reference (1): d" in caplog.text


def test_only_the_named_cases_are_scored(folders: Folders) -> None:
    result = evaluate_folders(*folders, cases=["a", "b"])
    assert result.summary.missing == ()
    assert set(result.table["case"]) == {"a", "b"}
    with pytest.raises(UsageError, match="no reference for zzz"):
        evaluate_folders(*folders, cases=["a", "zzz"])


def test_workers_give_the_same_table(folders: Folders) -> None:
    pd.testing.assert_frame_equal(
        evaluate_folders(*folders, workers=2).table, evaluate_folders(*folders).table
    )


def test_nothing_in_common_is_a_usage_error(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no case in common") as caught:
        evaluate_folders(tmp_path / "empty", folders[1])
    assert caught.value.exit_status == 2


def test_all_bad_cases_are_named_and_nothing_is_written(
    folders: Folders, tmp_path: Path, write: Callable[..., Path]
) -> None:
    write(folders[0] / "a.nrrd", {9: 1})
    with pytest.raises(DatasetError, match=r"^\S*a\.nrrd holds label values \[9\]"):
        evaluate_folders(*folders, out=tmp_path / "out")
    write(folders[0] / "b.mha", {8: 1})
    with pytest.raises(DatasetError, match=r"(?s)2 cases cannot be scored:.*a\.nrrd.*b\.mha"):
        evaluate_folders(*folders, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_use_the_scans_and_a_bad_scan_costs_no_numbers(
    folders: Folders, tmp_path: Path, write: Callable[..., Path]
) -> None:
    images = tmp_path / "imagesTr"
    grid = Grid(size=(6, 5, 4), spacing=(1, 2, 5), origin=(9, 9, 9), direction=EYE)
    write_volume(images / "a_0000.nii.gz", np.zeros((4, 5, 6), np.float32), grid)
    result = evaluate_folders(*folders, out=tmp_path / "out", images=images)
    page = result.files[2].read_text()
    assert page.count("data:image/jpeg;base64,") == 2  # b and c, drawn without a scan
    assert "No picture: " in page
    assert "does not lie on the grid" in page


def test_a_missing_image_folder_is_told_before_the_work(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a folder"):
        evaluate_folders(*folders, images=tmp_path / "nowhere")


EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def test_tables_are_not_put_among_the_data(folders: Folders, tmp_path: Path) -> None:
    predictions, references = folders
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "link").symlink_to(references)
    for out in (references, tmp_path / "link", images):
        before = sorted(out.iterdir())
        with pytest.raises(UsageError, match=r"is the folder of the (references|images); give"):
            evaluate_folders(*folders, out=out, images=images)
        assert sorted(out.iterdir()) == before
    evaluate_folders(*folders, out=predictions)  # what the command does without -o
    evaluate_folders(*folders, out=predictions)


@pytest.mark.parametrize("name", ["per_case.csv", "summary.json", "summary.html"])
def test_another_programs_tables_are_not_replaced(
    folders: Folders, tmp_path: Path, name: str
) -> None:
    there = folders[0] / name
    there.write_text('{"foreground_mean": {}, "mean": {}, "metric_per_case": []}')  # nnU-Net's
    with pytest.raises(UsageError, match=rf"{name} is there already and is not known"):
        evaluate_folders(*folders, out=folders[0])
    assert "foreground_mean" in there.read_text()


def test_swapped_folders_are_refused_and_two_predictions_are_not(
    folders: Folders, tmp_path: Path
) -> None:
    predictions, references = folders
    with pytest.raises(UsageError, match=r"labelsTr holds a dataset's labels: .* look swapped"):
        evaluate_folders(references, predictions)
    other = shutil.copytree(references, tmp_path / "other")
    (other / REPORT).write_text("{}")
    with pytest.raises(UsageError, match=r"other holds a prediction's predict_report\.json"):
        evaluate_folders(predictions, other, references.parent / "dataset.json")
    (predictions / REPORT).write_text("{}")
    evaluate_folders(predictions, other, references.parent / "dataset.json")
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        evaluate_folders(tmp_path / "nowhere", references)


def test_the_report_is_the_one_that_prediction_writes() -> None:
    assert REPORT == PREDICTED
