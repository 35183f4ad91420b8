"""Every bad input before every command that reads its kind: status, one sentence, nothing half-written."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from battery import (
    asked,
    closed,
    datasets,
    images,
    json_files,
    models,
    permissions,
    reports,
    table,
    tables,
)
from battery.row import Row
from battery.table import Answer

from renalplan.files import TEMPORARY

ROWS = list(
    chain(
        *(
            kind.rows()
            for kind in (images, json_files, datasets, models, tables, asked, closed, reports)
        )
    )
)
HANGS_SECONDS = 60
ANSWERS: dict[str, Answer] = {}  # of the rows that were run


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path with size and time of change (0 for folders)."""
    found = {}
    for root, folders, files in os.walk(folder):
        base = os.path.relpath(root, folder).removeprefix(".").lstrip("/")
        found.update({f"{base}/{name}".lstrip("/"): (0, 0) for name in folders})
        for name in files:
            state = os.lstat(f"{root}/{name}")
            found[f"{base}/{name}".lstrip("/")] = (state.st_size, state.st_mtime_ns)
    return found


def without(found: dict[str, tuple[int, int]], writes: tuple[str, ...]) -> dict[str, Any]:
    """What may not change."""
    return {name: state for name, state in found.items() if not name.startswith(writes)}


@pytest.fixture(autouse=True)
def _no_row_hangs() -> Iterator[None]:
    """A command that waits for ever, on a pipe for example, fails instead."""

    def stop(*_: object) -> None:
        raise AssertionError(f"the command had not returned after {HANGS_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANGS_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def said_by(row: Row, ran: Any, here: Path) -> str:
    """The answer: what is on standard error, and of `check` the problems it lists."""
    text: str = ran.err
    if row.command == "check":
        text = "\n".join([text, *ran.out.splitlines()[:-1]]).strip()
    return text.replace(f"{here}/", "").replace(str(here), ".")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row.id))
def test_a_bad_input_is_answered_in_one_sentence(
    row: Row, here: Path, run: Callable[[str], Any]
) -> None:
    if row.command == "dicom_seg":
        pytest.importorskip("highdicom", reason="needs highdicom (the extra `dicom`)")
    row.prepare()
    before = tree(here)
    with permissions.bind():
        ran = run(row.line)
    said = said_by(row, ran, here)
    ANSWERS[row.id] = Answer(row, ran.status, said)
    assert ran.status == row.status, ran.err
    assert row.lines in (0, len(said.splitlines())), said
    for part in row.says:
        assert part in said
    assert "Traceback" not in ran.err
    assert "\N{ESCAPE}" not in ran.out + ran.err
    after, may = tree(here), (*row.writes, *row.makes)
    assert without(after, may) == without(before, may)
    names = [name.rpartition("/")[2] for name in after]
    assert not [name for name in names if name.startswith((TEMPORARY, "evil"))]
    for name in row.makes:
        assert (here / name).exists(), name
    for name in row.leaves_out:
        assert not (here / name).exists(), name


def test_no_two_rows_are_the_same_and_there_are_many_faults() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert len({(row.kind, row.fault) for row in ROWS}) >= 200


def test_the_page_shows_what_is_answered_now(request: pytest.FixtureRequest) -> None:
    if len(ANSWERS) < len(ROWS):
        pytest.skip("only the whole battery tells")
    text = table.page(ANSWERS[row.id] for row in ROWS)
    if request.config.getoption("--write-robustness"):
        table.PAGE.write_text(text)
    assert table.PAGE.read_text() == text, f"run {table.WRITE}"
