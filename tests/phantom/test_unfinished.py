"""A run that was ended is continued by the same command, to the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from renalplan.errors import DatasetError, UsageError
from renalplan.phantom import make_phantom_dataset
from renalplan.phantom.unfinished import require_free

TINY = (24, 32, 32)


class Ended(BaseException):
    """What a signal raises, for example."""


def make(out: Path, *, seed: int = 3, end_after: int | None = None) -> list[str]:
    """A dataset of three cases; returns those that were made now."""
    told: list[str] = []

    def progress(sentence: str) -> None:
        told.append(sentence.split()[0])
        if len(told) == end_after:
            raise Ended

    make_phantom_dataset(
        out, cases=2, test_cases=1, task="boxes", seed=seed, size=TINY, progress=progress
    )
    return told


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_ended_run_is_continued_to_the_same_files(tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "one" / "made", tmp_path / "two" / "made"
    make(undisturbed)
    with pytest.raises(Ended):
        make(out, end_after=1)
    assert not (out / "dataset.json").exists()
    left = out / "imagesTr" / ".tmp-1-case_0001_0000.nii.gz"
    left.write_bytes(b"half")
    require_free(out)
    assert make(out) == ["case_0001", "case_0002"]
    assert contents(out) == contents(undisturbed)
    with pytest.raises(UsageError, match="is not empty; choose a new folder"):
        require_free(out)


def test_what_was_asked_for_otherwise_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "made"
    with pytest.raises(Ended):
        make(out, end_after=1)
    before = contents(out)
    with pytest.raises(UsageError, match="asked for otherwise; ask for the same again, delete"):
        make(out, seed=4)
    assert contents(out) == before


def test_a_run_ended_while_it_tidied_up_is_continued(tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "one" / "made", tmp_path / "two" / "made"
    make(undisturbed)
    with pytest.raises(Ended):
        make(out, end_after=2)
    (out / ".phantom" / "case.case_0000.json").unlink()
    (out / "dataset.json").write_text("{}")
    require_free(out)
    assert make(out) == ["case_0000", "case_0002"]
    assert contents(out) == contents(undisturbed)


def test_a_run_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "bad.nii.gz").write_text("no image")
    with pytest.raises(DatasetError, match=r"bad\.nii\.gz"):
        make_phantom_dataset(tmp_path / "made", cases=1, from_masks=tmp_path / "masks")
    assert not (tmp_path / "made").exists()
