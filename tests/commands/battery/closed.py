"""Outputs that may not be written: every command says so before it works for long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from battery.json_files import saved
from battery.models import archive
from battery.row import (
    DATA,
    FOLD,
    MODEL,
    PLAN,
    PREDICT,
    PREPROCESSED,
    SCAN,
    TRUTH,
    Prepare,
    Row,
    nothing,
)
from battery.row import TRAIN_LONG as TRAIN

KIND = "Folders without permission"
TABLE = FOLD / "validation/per_case.csv"


def two_tables() -> None:
    """A table of two cases that score alike, under two names."""
    head, *rows = TABLE.read_text().splitlines()
    other = [",".join(["other", *row.split(",")[1:]]) for row in rows]
    for name in ("one.csv", "two.csv"):
        Path(name).write_text("\n".join([head, *rows, *other, ""]))


def closed(line: str, folder: Path | str, first: Prepare = nothing, named: str = "") -> Row:
    """A folder that may not be written."""

    def prepare() -> None:
        first()
        Path(folder).mkdir(exist_ok=True)
        Path(folder).chmod(0o500)

    return Row(
        KIND, f"no permission to write into {folder}", line,
        (f"no permission for {named or folder};", "choose another folder or change its permissions"),
        prepare, status=1,
    )  # fmt: skip


def rows() -> Iterator[Row]:
    """All of them."""
    yield Row(
        KIND,
        "no permission to write into work",
        PREDICT.replace("-o out", "-o work/out"),
        ("work/out cannot be made (Permission denied)", "choose another"),
        lambda: Path("work").chmod(0o500),
    )
    yield closed(f"evaluate {TRUTH} {TRUTH} -o work/out", "work", named="work/out")
    yield closed("phantom work/out --cases 1 --size 16 16 16", "work", named="work/out")
    yield closed(f"{PLAN} --plan_name other", PREPROCESSED)
    yield closed(f"{TRAIN} --name other", MODEL.parent, named=f"{MODEL.parent}/other")
    yield closed("export_model -o work/out.zip", "work")
    yield closed(f"surgery -s {TRUTH}/new.nii.gz -o work/out.json", "work")
    for line in (
        PREDICT,
        f"evaluate {TRUTH} {TRUTH} -o out",
        "phantom out --cases 1 --size 16 16 16",
        f"report -i {SCAN} -s {TRUTH}/new.nii.gz -o out --labels {DATA}",
    ):
        yield closed(line, "out")
    yield closed("ensemble one two -o out", "out", saved)
    yield closed("compare one.csv two.csv -o out", "out", two_tables)
    yield closed("find_best 1 --workers 0", MODEL.parent)
    yield closed("install_model model.zip --name other", MODEL.parent, archive)
    yield closed(TRAIN, MODEL)
