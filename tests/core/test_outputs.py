"""What an output may replace."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from renalplan.errors import UsageError
from renalplan.files import Record, write_json
from renalplan.outputs import require_own


class Kept(Record):
    """Two keys that every version has, and one that some have not."""

    case: str
    kidneys: int
    remark: str = ""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "a.json"


def test_nothing_there_and_what_was_written_before_may_be_replaced(record: Path) -> None:
    page = record.with_suffix(".html")
    require_own(record, Kept, page)
    write_json(record, Kept(case="a", kidneys=2))
    require_own(record, Kept, page)  # a run that was killed before the page
    page.touch()
    require_own(record, Kept, page)
    record.write_text(json.dumps({"case": "a", "kidneys": "two", "of_another_version": 1}))
    require_own(record, Kept, page)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"case": "a", "labels": {}}', "\ud800"])
def test_another_json_file_is_refused_and_stays(record: Path, text: str) -> None:
    content = text.encode("utf-8", "surrogatepass")
    record.write_bytes(content)
    with pytest.raises(
        UsageError, match=r"a\.json is there already and is not known as .*; choose"
    ):
        require_own(record, Kept)
    assert record.read_bytes() == content


def test_a_page_without_its_record_is_refused(record: Path) -> None:
    page = record.with_suffix(".html")
    page.touch()
    with pytest.raises(UsageError, match=r"a\.html is there already"):
        require_own(record, Kept, page)


def test_folders_dead_links_and_pipes_are_refused_without_waiting(record: Path) -> None:
    record.mkdir()
    with pytest.raises(UsageError, match="is there already"):
        require_own(record, Kept)
    record.rmdir()
    record.symlink_to("nowhere")
    with pytest.raises(UsageError, match="is there already"):
        require_own(record, Kept)
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(UsageError, match="is there already"):
        require_own(record, Kept)
