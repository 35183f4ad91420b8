"""Ctrl-C and SIGTERM: one sentence, a shell's status, soon, and whatever the program does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import pytest

from renalplan.parallel import Processes

BEGIN = """
import hashlib, os, sys, threading, time
from pathlib import Path
from renalplan.cli.common import command
from renalplan.files import atomic_file
from renalplan.locks import hold

@command
def work(arguments=None):
    with hold(Path(), "work", ""), atomic_file(Path("result")) as temporary:
        temporary.write_text("half of it")
        print("begun", flush=True)
        {does}
    return 0

sys.exit(work())
"""
DOES = {
    "waits": "time.sleep(60)",
    # Python raises nothing as long as this lasts
    "computes": "hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)",
    "has a thread": "threading.Thread(target=time.sleep, args=(60,)).start(); time.sleep(60)",
    "swallows it": """
        try:
            time.sleep(60)
        except BaseException:
            time.sleep(60)""",
    "removes an object": """
        class Slow:
            def __del__(self):
                time.sleep(60)
        Slow()
        time.sleep(60)""",
    "finishes something first": """
        from renalplan.interruption import finishing_first
        with finishing_first():
            time.sleep(0.5)
        time.sleep(60)""",
    "finishes nothing": """
        from renalplan.interruption import finishing_first
        with finishing_first():
            time.sleep(60)""",
    "makes something else of it": """
        try:
            time.sleep(60)
        except BaseException:
            raise ImportError('no module of this name')""",
}


@contextmanager
def running(does: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-c", BEGIN.format(does=does)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "begun\n"
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.mark.parametrize(
    ("does", "number"), [("waits", signal.SIGINT), *((does, signal.SIGTERM) for does in DOES)]
)
def test_it_ends_with_a_sentence_and_leaves_nothing(
    does: str, number: signal.Signals, tmp_path: Path
) -> None:
    with running(DOES[does], tmp_path) as child:
        child.send_signal(number)
        err = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + number
    assert err == f"renalplan_work: {number.name}: interrupted; the same command continues.\n"
    assert not list(tmp_path.iterdir())


# nothing but the second signal can end it
SWALLOWS_AND_SAYS_SO = """
        import renalplan.interruption
        renalplan.interruption.GRACE_SECONDS = 60
        try:
            print("waiting", flush=True)
            time.sleep(60)
        except BaseException:
            print("swallowed", flush=True)
            time.sleep(60)"""


FINISHES = """
        from renalplan.interruption import finishing_first
        try:
            with finishing_first():
                time.sleep(0.5)
                print("whole", flush=True)
        finally:
            print("raised", flush=True)
        print("went on", flush=True)"""


def test_what_cannot_be_broken_off_is_finished_first(tmp_path: Path) -> None:
    with running(FINISHES, tmp_path) as child:
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=30)
    assert out == "whole\nraised\n"
    assert child.returncode == 143
    assert err == "renalplan_work: SIGTERM: interrupted; the same command continues.\n"


def test_once_more_ends_it_at_once(tmp_path: Path) -> None:
    with running(SWALLOWS_AND_SAYS_SO, tmp_path) as child:
        assert child.stdout is not None
        for line in ("waiting\n", "swallowed\n"):
            assert child.stdout.readline() == line
            child.send_signal(signal.SIGINT)
        assert child.wait(30) == -signal.SIGINT


def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup`, and a shell's `&` in a script."""
    begin = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    code = f"{begin}\n{BEGIN.format(does='time.sleep(0.5)')}"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=tmp_path)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"begun\n"
        child.send_signal(signal.SIGINT)
    assert child.returncode == 0


def test_a_forked_worker_tells_nobody_of_its_signals(tmp_path: Path) -> None:
    """Its parent ends it by SIGTERM; Ctrl-C, which goes to all, is its parent's."""
    does = """
        import signal
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(1)
        os.kill(worker, signal.SIGINT)
        time.sleep(0.2)
        assert os.waitpid(worker, os.WNOHANG) == (0, 0)
        os.kill(worker, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 143
        time.sleep(2)"""
    with running(does, tmp_path) as child:
        assert child.communicate(timeout=30)[1] == ""
    assert child.returncode == 0
    assert (tmp_path / "result").exists()


def test_ctrl_c_does_not_reach_a_worker_that_is_just_starting() -> None:
    """Before its first line it could not ignore it, and would print a traceback."""
    with Processes(1) as executor:
        held_back = executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT in held_back
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


REMOVES = """
import os, signal, time

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

Slow()
"""


def test_a_worker_that_removes_an_object_ends_without_a_word(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Processes(1) as executor, pytest.raises(BrokenProcessPool):
        executor.submit(exec, REMOVES).result()
    assert capfd.readouterr().err == ""
