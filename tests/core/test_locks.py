"""One run at a time: a lock refuses the second, and no dead process holds one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from renalplan import locks
from renalplan.errors import UsageError
from renalplan.locks import hold, hold_files

HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from renalplan.locks import hold

with hold(Path(sys.argv[1]), "work", "it is being written"):
    if "started" in sys.argv:
        subprocess.Popen(["sleep", "60"], close_fds=False)
    if "forked" in sys.argv and os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.0)


@contextmanager
def holder(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock `work` of a folder."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdin.close()
        child.stdout.close()


def work(
    folder: Path, patience: float = 0.0, *, shared: bool = False
) -> AbstractContextManager[None]:
    return hold(folder, "work", "it is being written", ", or go", shared=shared, patience=patience)


def test_the_second_run_is_told_who_the_first_is(tmp_path: Path) -> None:
    with holder(tmp_path) as other, pytest.raises(UsageError) as refused, work(tmp_path):
        pass
    said = f"it is being written by another run (process {other.pid} on {os.uname().nodename})"
    assert str(refused.value) == f"{said}; wait until it has ended, or go."


@pytest.mark.parametrize("child", [(), ("forked",), ("started",)])
def test_a_killed_run_holds_nothing(tmp_path: Path, child: tuple[str, ...]) -> None:
    """Nor do the processes that it left."""
    with holder(tmp_path, *child) as other:
        other.kill()
        other.wait()
        assert (tmp_path / ".work.lock").exists()
        with work(tmp_path):
            pass
    assert not list(tmp_path.iterdir())


def test_a_run_waits_for_one_that_is_just_ending(tmp_path: Path) -> None:
    with holder(tmp_path) as other:
        assert other.stdin is not None
        other.stdin.close()  # it ends, and takes the file away
        with work(tmp_path, patience=60):
            assert (tmp_path / ".work.lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_same_process_is_refused_too_and_other_names_are_not(tmp_path: Path) -> None:
    with (
        work(tmp_path), hold(tmp_path, "other", ""), hold(tmp_path / "b", "work", ""),
        pytest.raises(UsageError), work(tmp_path),
    ):  # fmt: skip
        pass


def test_those_who_share_keep_others_out_until_the_last_has_gone(tmp_path: Path) -> None:
    with work(tmp_path, shared=True):
        with work(tmp_path, shared=True):
            pass
        with pytest.raises(UsageError), work(tmp_path):
            pass
    with work(tmp_path), pytest.raises(UsageError), work(tmp_path, shared=True):
        pass
    assert not list(tmp_path.iterdir())


def test_folders_that_stay_empty_are_taken_away(tmp_path: Path) -> None:
    with work(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".work.lock").exists()
    assert not list(tmp_path.iterdir())
    with work(tmp_path / "a" / "b"):
        (tmp_path / "a" / "found").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["found"]


def test_files_are_held_by_the_first_one_s_name(tmp_path: Path) -> None:
    page, table, other = (tmp_path / name for name in ("a.html", "a.json", "b.html"))
    for path in (page, table, other):
        path.with_name(f".tmp-1-{path.name}").touch()
    with hold_files(page, table), hold_files(other):
        assert not list(tmp_path.glob(".tmp-*")), "what killed runs left of them"
        with pytest.raises(UsageError) as refused, hold_files(page, advice=", or go"):
            pass
    assert str(refused.value).startswith(f"{page} is being written by another run (process ")
    assert str(refused.value).endswith("; wait until it has ended, or go.")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(locks.os, "open", refuse)
    with pytest.raises(PermissionError) as refused, work(tmp_path):
        pass
    assert refused.value.filename == str(tmp_path)


def test_where_there_are_no_locks_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with work(tmp_path):
        pass
    assert f"{tmp_path} lies where files cannot be locked (Function not impl" in caplog.text
    assert not list(tmp_path.iterdir())
