"""The next cases are read by other processes while one is computed; their deaths are noticed at once."""

from __future__ import annotations

import json
import logging
import mmap
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from renalplan.errors import DatasetError, WorkerError
from renalplan.geometry import Grid
from renalplan.images import Volume
from renalplan.inference.failures import Failure, ForeignError
from renalplan.inference.reader_process import receive, send
from renalplan.inference.scans import ScanFiles
from renalplan.vitals import Patience, cause_of_death, vitals

PATIENCE_SECONDS = 600.0  # how long a reader may neither compute nor read a byte
TICK_SECONDS = 0.25  # how often its vital signs are looked at
START_SECONDS = 5.0  # for the rest of a message that has begun, and for a killed process to end
READ = "renalplan.inference.scans:read_scan"
CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from renalplan.inference.reader_process import main; "
    "main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadCase:
    """A case that has been read.

    Attributes:
        volume: The scan.
        inputs: Fingerprint of its files before they were read.
    """

    volume: Volume
    inputs: str


class ReaderLost(Exception):  # noqa: N818  (its case is tried again; it is no error yet)
    """A reader died, hung or ran out of memory; the text says how."""


def readers_possible() -> bool:
    """Whether this system can start a reader and take memory from it."""
    return bool(sys.executable) and hasattr(socket, "send_fds") and os.name == "posix"


class Reader:
    """One reading process. Not a fork, so that threads and devices of this process do not matter."""

    def __init__(self, function: str = READ, patience: float = PATIENCE_SECONDS) -> None:
        self.patience = patience
        self._resident = 0
        self._channel, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", CHILD, json.dumps(sys.path), str(theirs.fileno()),
                 str(os.getpid()), function],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )  # fmt: skip
        except OSError:
            self._channel.close()
            self._errors.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid

    def read(self, scan: ScanFiles) -> Volume:
        """Have a case read.

        Raises:
            DatasetError: the case cannot be read.
            ForeignError: reading it failed in a way nobody foresaw.
            ReaderLost: the process died, hung, or ran out of memory.
        """
        try:
            send(self._channel, scan.as_json())
            answer, descriptors = self._wait()
        except (ConnectionError, TimeoutError, ValueError):
            raise self._lost() from None
        if answer is None:
            raise self._lost()
        if "wrong" in answer:
            raise DatasetError(answer["wrong"])
        if "no_memory" in answer:
            raise ReaderLost(f"ran out of memory ({answer['no_memory']})")
        if "defect" in answer:
            raise ForeignError(Failure(answer["defect"], answer["traceback"]))
        return _volume(answer, descriptors[0])

    def _wait(self) -> tuple[Any, list[int]]:
        """Wait for an answer as long as the process shows signs of life."""
        patience = Patience(self.patience, time.monotonic)
        self._channel.settimeout(TICK_SECONDS)
        while not _readable(self._channel):
            signs = vitals(self.pid)
            if signs is not None and signs.resident:  # a dead one holds nothing any more
                self._resident = signs.resident
            if patience.spent(signs and signs.work):
                raise ReaderLost(
                    f"gave no sign of life for {self.patience:g} s (no computing, no reading)"
                )
        self._channel.settimeout(START_SECONDS)
        return receive(self._channel)

    def _lost(self) -> ReaderLost:
        try:
            status: int | None = self._process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        said = self._last_words()
        return ReaderLost(cause_of_death(status, self._resident) + (f" ({said})" if said else ""))

    def _last_words(self) -> str:
        """The last line that says something in what it wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").splitlines()
        telling = [line.strip() for line in lines if line.strip()]
        fatal = [line for line in telling if line.startswith("Fatal Python error")]
        return next(iter(fatal or telling[-1:]), "")

    def kill(self) -> None:
        """End the process, from any thread; who waits for its answer gets `ReaderLost`."""
        self._process.kill()

    def close(self) -> None:
        """End the process and let go of it; one that cannot even be killed is left to the system."""
        self.kill()
        self._channel.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(START_SECONDS)
        self._errors.close()


class ReadAhead:
    """Reads cases in their order, some ahead of the one that is asked for.

    A case whose reader is lost is tried once more, when nothing else is being read or computed, by a
    process of its own again: a file that kills whoever reads it must not kill this process. And
    from then on one case less is read ahead.

    Attributes:
        scans: In the order in which they will be taken.
        ahead: How many are read while one is computed: so many volumes more are in memory.
    """

    def __init__(
        self,
        scans: Sequence[ScanFiles],
        ahead: int,
        *,
        function: str = READ,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.scans = scans
        self.ahead = ahead
        self._new = lambda: Reader(function, patience)
        self._idle: queue.SimpleQueue[Reader] = queue.SimpleQueue()
        self._all: list[Reader] = []
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(max(1, ahead), thread_name_prefix="reader")
        self._futures: dict[int, Future[ReadCase]] = {}
        self._closed = False

    def take(self, index: int) -> ReadCase:
        """The case of this index; the next ones are being read from now on.

        Raises:
            DatasetError: it cannot be read.
            ForeignError: see `Reader.read`.
            WorkerError: two processes were lost over it.
        """
        try:
            return self._begin(index).result()
        except ReaderLost as first:
            self.ahead = max(0, self.ahead - 1)
            wait(self._futures.values())  # each ends: a reader without a sign of life is given up
            scan = self.scans[index]
            try:
                return self._threads.submit(self._read, scan).result()
            except ReaderLost as second:
                raise WorkerError(
                    f"the process that read {scan.id} {first}; a second one {second}."
                ) from None
        finally:
            self._futures.pop(index, None)
            for later in range(index + 1, min(index + 1 + self.ahead, len(self.scans))):
                self._begin(later)

    def _begin(self, index: int) -> Future[ReadCase]:
        if index not in self._futures:
            self._futures[index] = self._threads.submit(self._read, self.scans[index])
        return self._futures[index]

    def _read(self, scan: ScanFiles) -> ReadCase:
        try:
            reader = self._reader()
        except OSError as problem:
            log.warning(
                "no process can be started (%s), so %s is read by this one", problem, scan.id
            )
            return ReadHere([scan]).take(0)
        try:
            inputs = scan.fingerprint()
            volume = reader.read(scan)
        except ReaderLost as problem:
            self._end(reader)
            if not self._closed:
                log.warning("the process that reads %s %s", scan.id, problem)
            raise
        except BaseException:
            self._idle.put(reader)
            raise
        self._idle.put(reader)
        return ReadCase(volume, inputs)

    def _reader(self) -> Reader:
        """One that is idle, or a new one.

        Raises:
            OSError: the system starts no process.
        """
        with suppress(queue.Empty):
            return self._idle.get_nowait()
        reader = self._new()
        with self._lock:
            self._all.append(reader)
            closed = self._closed
        if closed:  # while it was being started
            reader.kill()
        return reader

    def _end(self, reader: Reader) -> None:
        with self._lock:
            if reader in self._all:
                self._all.remove(reader)
        reader.close()

    def pids(self) -> list[int]:
        """The reading processes."""
        with self._lock:
            return [reader.pid for reader in self._all]

    def close(self) -> None:
        """End all readers, whatever they do."""
        for future in self._futures.values():
            future.cancel()
        with self._lock:
            self._closed = True
            for reader in self._all:
                reader.kill()
        self._threads.shutdown(wait=True)
        for reader in self._all:
            reader.close()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_scans(scans: Sequence[ScanFiles], workers: int) -> ReadAhead | ReadHere:
    """Reads cases in their order: with so many processes, as many ahead; 0 reads them here.

    Where little memory is left, 0 is the choice: a case that is read ahead is a volume more.
    """
    ahead = min(workers, len(scans) - 1)
    return ReadAhead(scans, ahead) if ahead > 0 and readers_possible() else ReadHere(scans)


class ReadHere:
    """Reads a case in this process when it is asked for, and no other."""

    def __init__(self, scans: Sequence[ScanFiles]) -> None:
        self.scans = scans

    def take(self, index: int) -> ReadCase:
        """The case of this index.

        Raises:
            DatasetError: it cannot be read.
        """
        scan = self.scans[index]
        inputs = scan.fingerprint()
        return ReadCase(scan.read(), inputs)

    def __enter__(self) -> ReadHere:
        return self

    def __exit__(self, *_: object) -> None:
        return


def _readable(channel: socket.socket) -> bool:
    """Wait a tick; whether there is something to receive (an end is something)."""
    try:
        channel.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    return True


def _volume(answer: dict[str, Any], descriptor: int) -> Volume:
    """The volume in a descriptor's memory, which goes when the array does."""
    try:
        memory = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    array = np.frombuffer(memory, np.dtype(answer["type"])).reshape(answer["shape"])
    grid = {key: tuple(value) for key, value in answer["grid"].items()}
    return Volume(array=array, spacing=tuple(answer["spacing"]), grid=Grid(**grid))
