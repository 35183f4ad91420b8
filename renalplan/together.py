"""One function in several processes of this machine that work together, as torchrun starts them.

The function finds its place in the environment (RANK, WORLD_SIZE, ... as torchrun sets them). What the
first process returns is the result; as soon as one fails, all are ended.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from renalplan.ending import end_quickly
from renalplan.errors import LostError, RenalplanError, WorkerError
from renalplan.interruption import keeping_ctrl_c, silent_about
from renalplan.parallel import usable_cores
from renalplan.vitals import follow

Result = TypeVar("Result")
GRACE_S = 10.0  # for the others to end by themselves once one has failed
TERM_S = 1.0  # to close what is open
INTERRUPTED = 130


def run_together(
    function: Callable[..., Result], processes: int, arguments: dict[str, Any]
) -> Result:
    """Call `function(**arguments)` in so many processes at once.

    Args:
        function: Importable by name, since the processes are started afresh.
        processes: How many.
        arguments: The same for all.

    Returns:
        What it returns in the first process; its log records arrive in this one.

    Raises:
        RenalplanError: what the first process to fail raised, once all have ended.
        WorkerError: a process died, or raised something that is a defect.
    """
    context = multiprocessing.get_context("spawn")
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        for rank in range(processes):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_one_of_several,
                args=(function, arguments, rank, processes, place, sender, os.getpid()),
                name=f"renalplan process {rank}",
            )
            with keeping_ctrl_c():
                process.start()
            sender.close()  # so that the other end is the only one, and its end is noticed
            started.append((process, receiver))
        found: Result = _first_answer(started)
    except Exception:
        _end(started, GRACE_S)
        raise
    except BaseException:  # whoever interrupts us does not wait
        _end(started, 0.0)
        raise
    _end(started, GRACE_S)
    return found


def _first_answer(started: list[tuple[BaseProcess, Connection]]) -> Any:
    """Wait for all to say that they are done, or for one that failed."""
    open_ends = {receiver: rank for rank, (_, receiver) in enumerate(started)}
    result: Any = None
    lost: LostError | None = None
    while open_ends:
        ready = wait(list(open_ends), None if lost is None else GRACE_S)
        if lost is not None and not ready:
            break
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = open_ends[receiver]
            try:
                kind, value = receiver.recv()
            except EOFError:
                raise _died(rank, started) from None
            if kind == "log":
                logging.getLogger(value.name).handle(value)
            elif kind == "failed" and not isinstance(value, LostError):
                raise value
            elif kind == "failed":  # whoever is the cause says so as well, or is noticed to be gone
                lost = value
                del open_ends[receiver]
            else:
                result = value if rank == 0 else result
                del open_ends[receiver]
    if lost is not None:
        raise lost
    return result


def _died(rank: int, started: list[tuple[BaseProcess, Connection]]) -> BaseException:
    process, _ = started[rank]
    process.join(GRACE_S)
    if process.exitcode == INTERRUPTED:
        return KeyboardInterrupt()
    return WorkerError(
        f"process {rank + 1} of {len(started)} died (status {process.exitcode}; -9 is the system, "
        "when memory has run out); all have been ended. The same command continues from the last "
        "checkpoint."
    )


def _end(started: list[tuple[BaseProcess, Connection]], grace: float) -> None:
    """Let none of them outlive this call.

    Args:
        started: The processes.
        grace: Seconds in which they may end by themselves.
    """
    limit = time.monotonic() + grace
    for process, receiver in started:
        receiver.close()
        process.join(max(0.0, limit - time.monotonic()))
        if process.is_alive():
            process.terminate()
    limit = time.monotonic() + max(grace, TERM_S)
    for process, _ in started:
        process.join(max(0.0, limit - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _one_of_several(
    function: Callable[..., Any],
    arguments: dict[str, Any],
    rank: int,
    processes: int,
    place: dict[str, str],
    sender: Connection,
    parent: int,
) -> None:
    """What runs in each process."""
    number, count = str(rank), str(processes)
    os.environ.update(place, RANK=number, LOCAL_RANK=number, GROUP_RANK="0", WORLD_SIZE=count)
    os.environ.update(LOCAL_WORLD_SIZE=count, TORCHELASTIC_RUN_ID="renalplan")
    follow(parent)
    end_quickly()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # in good order, as by Ctrl-C
    sys.unraisablehook = silent_about(KeyboardInterrupt, sys.unraisablehook)
    lock = threading.Lock()

    def say(kind: str, value: Any) -> None:
        # whoever started us may have gone, or ended us all because another one failed
        with lock, suppress(BrokenPipeError):
            sender.send((kind, value))

    _send_log(say, quiet=rank > 0)
    import torch

    torch.set_num_threads(max(1, usable_cores() // processes))
    try:
        say("done", function(**arguments))
    except RenalplanError as problem:
        say("failed", problem)
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)
    except BaseException as problem:
        sys.stderr.write(traceback.format_exc())
        reason = f"{type(problem).__name__}: {problem}"
        say("failed", WorkerError(f"process {rank + 1} of {processes} failed: {reason}"))
    sender.close()


class _Sender(QueueHandler):
    """Hands records to the process that started this one, in a form that can be sent."""

    def __init__(self, say: Callable[[str, Any], None]) -> None:
        super().__init__(queue=None)  # type: ignore[arg-type]
        self.say = say

    def enqueue(self, record: logging.LogRecord) -> None:
        self.say("log", record)


def _send_log(say: Callable[[str, Any], None], *, quiet: bool) -> None:
    logger = logging.getLogger("renalplan")
    logger.handlers = [] if quiet else [_Sender(say)]
    logger.propagate = False
    logger.setLevel(logging.CRITICAL if quiet else logging.INFO)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
