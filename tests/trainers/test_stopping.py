"""One signal finishes early, a second one stops at once; workers leave signals to their parent."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from renalplan.trainers.stopping import StopRequest


def _send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_remembered_and_said(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopRequest()
    stop.can_finish = True
    with caplog.at_level("WARNING"), stop.listening():
        assert stop.signal is None
        _send(number)
        assert stop.signal == number
    assert "annealed, validated and finished first; once more stops at once" in caplog.text


def test_the_second_signal_stops_as_itself() -> None:
    stop = StopRequest()
    stop.can_finish = True
    with stop.listening():
        _send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            _send(signal.SIGINT)
        with pytest.raises(SystemExit) as leaving:
            _send(signal.SIGTERM)
    assert leaving.value.code == 143


def test_where_nothing_is_trained_yet_the_first_one_stops() -> None:
    stop = StopRequest()
    with stop.listening(), pytest.raises(KeyboardInterrupt):
        _send(signal.SIGINT)
    assert stop.signal is None


def test_afterwards_signals_are_what_they_were() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest().listening():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_another_thread_signals_are_left_alone() -> None:
    seen: list[object] = []

    def run() -> None:
        with StopRequest().listening() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


def _child(stop: StopRequest, life: Callable[[], None]) -> int:
    """A forked process with these handlers; returns its pid once it runs."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"1")
        life()
        os._exit(7)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return pid


def test_a_forked_worker_goes_on_and_obeys_the_second_sigterm() -> None:
    stop = StopRequest()
    stop.can_finish = True
    with stop.listening():
        pid = _child(stop, lambda: time.sleep(120))
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
            time.sleep(0.05)  # signals of one kind that wait are one
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert stop.signal is None
