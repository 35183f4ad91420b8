"""Two runs on the same folder at once: the second one is refused before it does anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from battery.closed import two_tables

from renalplan import locks
from renalplan.locks import hold

DATASET = "Dataset001_Tiny"
MODEL = Path("work/results") / DATASET / "UNet"
PREDICT = f"predict -i work/raw/{DATASET}/imagesTs -o out --device cpu --engine torch"
TRAIN = (
    "train 1 {fold} --workers 0 --device cpu --set epochs=1 iterations=1 validation_iterations=0"
)
SCAN = f"work/raw/{DATASET}/imagesTs/new_0000.nii.gz"
LABELS = f"--labels work/raw/{DATASET}"
Run = Callable[[str], Any]


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.0)


@pytest.fixture
def segmentations(here: Path) -> Path:
    (here / "out").mkdir()
    made = here / "out" / "new.nii.gz"
    made.write_bytes((here / f"work/raw/{DATASET}/labelsTs/new.nii.gz").read_bytes())
    return made


@pytest.mark.parametrize(
    ("folder", "name", "line", "says"),
    [
        pytest.param(
            f"work/preprocessed/{DATASET}", "preprocessing", "plan_and_preprocess 1 --workers 0",
            f"work/preprocessed/{DATASET} is being written", id="preprocess",
        ),
        pytest.param(
            MODEL, "fold_0", TRAIN.format(fold=0), f"fold 0 of {MODEL} is being trained", id="train"
        ),
        pytest.param(
            MODEL, "fold_1", TRAIN.format(fold="cv"), f"fold 1 of {MODEL} is being trained",
            id="train cv",
        ),
        pytest.param(
            MODEL, "fold_1", f"{TRAIN.format(fold=1)} --devices 2".replace("--workers 0", ""),
            f"fold 1 of {MODEL} is being trained", id="train on two devices",
        ),
        pytest.param("out", "prediction", PREDICT, "out is being filled", id="predict"),
        pytest.param(
            "out", "prediction", f"{PREDICT} --parts 2 --part 0", "out is being filled",
            id="predict a part while all are predicted",
        ),
        pytest.param(
            "out", "predict_report.part_0_of_2", f"{PREDICT} --parts 2 --part 0",
            "part 0 of 2 in out is being predicted", id="predict the same part",
        ),
        pytest.param(
            "scores", "evaluation", f"evaluate out work/raw/{DATASET}/labelsTs -o scores",
            "an evaluation is being written into scores", id="evaluate",
        ),
        pytest.param(
            "compared", "compare.json", "compare one.csv two.csv -o compared",
            "compared/compare.json is being written", id="compare",
        ),
        pytest.param(
            MODEL.parent, "find_best", "find_best 1 --workers 0",
            f"the best model in {MODEL.parent} is being found", id="find the best",
        ),
        pytest.param(
            "made", "phantom", "phantom made --cases 1 --size 16 16 16", "made is being filled",
            id="phantom",
        ),
        pytest.param(
            ".", "model.zip", "export_model -o model.zip", "model.zip is being written", id="export"
        ),
        pytest.param(
            MODEL.parent, "again", "install_model sent.zip --name again",
            f"{MODEL.parent}/again is being written", id="install",
        ),
        pytest.param(
            ".", "numbers.json", f"surgery -s out/new.nii.gz -o numbers.json {LABELS}",
            "numbers.json is being written", id="surgery",
        ),
        pytest.param(
            "page", "new.html", f"report -i {SCAN} -s out/new.nii.gz -o page {LABELS}",
            "page/new.html is being written", id="report",
        ),
    ],
)  # fmt: skip
def test_the_second_run_is_refused(
    here: Path, run: Run, segmentations: Path, folder: str, name: str, line: str, says: str
) -> None:
    if line.startswith("install"):
        assert run("export_model -o sent.zip").status == 0
    if line.startswith("compare"):
        two_tables()

    def state() -> dict[str, int]:
        files = [path for path in here.rglob("*") if path.is_file()]
        return {str(path): path.stat().st_mtime_ns for path in files}

    with hold(Path(folder), name, ""):
        before = state()
        ran = run(line)
        assert ran.status == 2, ran.err
        assert f"{says} by another run (process " in ran.err
        assert "; wait until it has ended" in ran.err
        assert "Traceback" not in ran.err
        assert state() == before


def test_other_folds_other_parts_and_other_folders_are_free(here: Path, run: Run) -> None:
    with hold(MODEL, "fold_0", ""):
        assert run(TRAIN.format(fold=1)).status == 0
    with hold(Path("out"), "prediction", "", shared=True), hold(Path("other"), "prediction", ""):
        assert run(f"{PREDICT} --parts 2 --part 0").status == 0
    assert run(PREDICT).status == 0
    assert not [path for path in here.rglob(".*") if path.is_file()]


def test_parts_keep_the_whole_away(here: Path, run: Run) -> None:
    with hold(Path("out"), "prediction", "", shared=True):
        ran = run(PREDICT)
    assert ran.status == 2
    assert "out is being filled by another run; wait until it has ended, or choose" in ran.err
