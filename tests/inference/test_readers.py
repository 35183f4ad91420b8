"""Processes that read ahead: the same volumes, and every way of dying has its sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from renalplan.errors import DatasetError, WorkerError
from renalplan.images import read_volume
from renalplan.inference.failures import ForeignError
from renalplan.inference.readers import TICK_SECONDS, ReadAhead, Reader, ReadHere, open_scans
from renalplan.inference.scans import ScanFiles
from renalplan.vitals import Patience, cause_of_death, vitals

Write = Callable[..., np.ndarray]
STUB = "stub_readers:read"


@pytest.fixture
def scans(write_scan: Write, tmp_path: Path) -> Callable[..., list[ScanFiles]]:
    def make(*names: str) -> list[ScanFiles]:
        found = []
        for number, name in enumerate(names):
            path = tmp_path / f"{number}_{name}.nii.gz"
            write_scan(path, sign=number + 1, turned=number % 2 == 1)
            found.append(ScanFiles(id=name, images=(path,), ending=".nii.gz"))
        return found

    return make


@pytest.mark.parametrize("ahead", [1, 2])
def test_what_is_read_ahead_is_what_is_read_here(scans: Any, ahead: int) -> None:
    cases = scans("a", "b", "c", "d")
    with ReadAhead(cases, ahead) as there:
        for index, scan in enumerate(cases):
            read = there.take(index)
            here = ReadHere(cases).take(index)
            assert read.inputs == here.inputs == scan.fingerprint()
            assert read.volume.array.dtype == here.volume.array.dtype
            assert np.array_equal(read.volume.array, here.volume.array)
            assert read.volume.grid == here.volume.grid
            assert read.volume.spacing == here.volume.spacing
        assert 1 <= len(there.pids()) <= ahead
        pids = there.pids()
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_no_more_is_read_ahead_than_was_asked_for(scans: Any, monkeypatch: Any) -> None:
    cases = scans("a", "b", "c", "d", "e")
    begun: list[str] = []
    real = ReadAhead._read

    def note(self: ReadAhead, scan: ScanFiles) -> Any:
        begun.append(scan.id)
        return real(self, scan)

    monkeypatch.setattr(ReadAhead, "_read", note)
    with ReadAhead(cases, 2) as there:
        for index in range(5):
            there.take(index)
            assert set(begun) <= {scan.id for scan in cases[: index + 3]}
    assert sorted(begun) == ["a", "b", "c", "d", "e"]


def test_a_bad_file_is_the_cases_own_error_and_needs_no_second_try(scans: Any) -> None:
    cases = scans("a", "b", "c")
    cases[1].images[0].write_bytes(b"no image")
    with ReadAhead(cases, 1, function=STUB) as there:
        there.take(0)
        with pytest.raises(DatasetError, match=r"1_b\.nii\.gz cannot be read as an image"):
            there.take(1)
        pids = there.pids()
        there.take(2)
        assert there.pids() == pids
        assert there.ahead == 1


def test_what_nobody_foresaw_comes_with_its_traceback(scans: Any) -> None:
    with ReadAhead(scans("a", "raised"), 1, function=STUB) as there:
        there.take(0)
        with pytest.raises(ForeignError, match="ValueError: what nobody foresaw") as raised:
            there.take(1)
    assert 'raise ValueError("what nobody foresaw")' in (raised.value.failure.traceback or "")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("killed", r"was killed by SIGKILL.*; most often that means that memory ran out"),
        ("crashed", r"was killed by SIGSEGV.* \(Fatal Python error: Segmentation fault\)"),
        ("left", r"ended with status 7"),
        ("hung", r"gave no sign of life for 3 s"),
        ("large", r"ran out of memory \(Unable to allocate 8\.00 GiB"),
    ],
)
def test_a_lost_reader_is_named_and_its_case_tried_once_more(
    scans: Any, caplog: pytest.LogCaptureFixture, what: str, says: str
) -> None:
    cases = scans("a", f"{what}_once", what, "b", "c")
    patience = 3 if what == "hung" else 600
    with ReadAhead(cases, 1, function=STUB, patience=patience) as there:
        there.take(0)
        again = there.take(1)
        assert np.array_equal(again.volume.array, read_volume(cases[1].images[0]).array)
        assert there.ahead == 0
        with pytest.raises(WorkerError, match=rf"process that read {what} {says}.*; a second one"):
            there.take(2)
        there.take(3)
        there.take(4)
    warned = [r.message for r in caplog.records]
    assert len(warned) == 3
    assert all(text.startswith(f"the process that reads {what}") for text in warned)


def test_a_reader_killed_from_outside_is_noticed_while_nobody_asks(
    scans: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As the kernel does when memory runs out: the one that is computed does not have to end first."""
    cases = scans("a", "hung_once", "b")
    with ReadAhead(cases, 1, function=STUB) as there:
        there.take(0)
        (pid,) = there.pids()
        limit = time.monotonic() + 60
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            assert time.monotonic() < limit
            time.sleep(0.01)
        time.sleep(8 * TICK_SECONDS)  # its memory is looked at once a tick
        os.kill(pid, signal.SIGKILL)
        while not caplog.records:
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert "the process that reads hung_once was killed by SIGKILL" in caplog.text
        assert "GiB of memory" in caplog.text
        assert there.take(1).inputs == cases[1].fingerprint()


def test_where_no_process_starts_the_case_is_read_here(
    scans: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    cases = scans("a", "b")
    with ReadAhead(cases, 1) as there:
        assert there.take(0).inputs == cases[0].fingerprint()
        assert "no process can be started" in caplog.text


def test_closing_ends_a_reader_that_hangs(scans: Any) -> None:
    cases = scans("a", "hung")
    with ReadAhead(cases, 1, function=STUB) as there:
        there.take(0)
        (pid,) = there.pids()
    assert not psutil.pid_exists(pid)


def test_a_single_case_and_no_workers_need_no_process(scans: Any) -> None:
    assert isinstance(open_scans(scans("a", "b"), 0), ReadHere)
    assert isinstance(open_scans(scans("a"), 3), ReadHere)
    assert isinstance(open_scans([], 3), ReadHere)
    with open_scans(scans("a", "b", "c"), 9) as there:
        assert isinstance(there, ReadAhead)
        assert there.ahead == 2


PARENT = """
import sys, time
from pathlib import Path
from renalplan.inference.readers import Reader
from renalplan.inference.scans import ScanFiles
sys.path.insert(0, sys.argv[1])
reader = Reader("stub_readers:read")
print(reader.pid, flush=True)
reader.read(ScanFiles(id=sys.argv[3], images=(Path(sys.argv[2]),), ending=".nii.gz"))
print("read", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("what", ["a", "hung"])
def test_a_reader_does_not_outlive_who_asked(scans: Any, what: str) -> None:
    """An idle one and one that is in the middle of something."""
    (scan,) = scans(what)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(Path(__file__).parent), str(scan.images[0]), what],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    reader = psutil.Process(int(parent.stdout.readline()))
    limit = time.monotonic() + 60
    if what == "a":
        assert parent.stdout.readline() == "read\n"
    while what == "hung" and reader.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < limit
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_patience_begins_anew_with_every_sign() -> None:
    now = [0.0]
    patience = Patience(10, lambda: now[0])
    for time_, sign, spent in [
        (0, 1, False), (9, 1, False), (10, 1, False), (10.5, 2, False), (20, 2, False), (21, 2, True),
        (22, 3, False),
    ]:  # fmt: skip
        now[0] = time_
        assert patience.spent(sign) == spent, time_


def test_a_process_that_works_shows_it() -> None:
    first = vitals(os.getpid())
    assert first is not None
    assert first.resident > 1 << 20
    while (now := vitals(os.getpid())) is not None and now.work <= first.work:
        pass  # looking at it is work
    assert vitals(2**22 + 1) is None  # above every process id


def test_causes_of_death() -> None:
    assert cause_of_death(-9, 3 << 29).startswith("was killed by SIGKILL while it held 1.50 GiB")
    assert cause_of_death(-200, 0) == "was killed by signal 200"
    assert cause_of_death(1, 0) == "ended with status 1"
    assert cause_of_death(None, 0) == "went silent"


def test_a_reader_needs_no_network_library(scans: Any) -> None:
    (scan,) = scans("a")
    reader = Reader()
    try:
        reader.read(scan)
        maps = Path(f"/proc/{reader.pid}/maps").read_text()
    finally:
        reader.close()
    assert "SimpleITK" in maps
    assert "libtorch" not in maps
