"""Wall clock, processor time and memory of a command and everything it starts."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

POLL_S = 0.2
WATCHING = (
    0.03  # share of a core that watching memory may take: large processes take long to add up
)


class BenchmarkError(Exception):
    """A command failed; the message says where its output is."""


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds of wall clock, of all cores together, bytes at the peak.

    Attributes:
        peak_bytes: The largest sum over all processes that was seen, polled: short peaks are missed.
        largest_bytes: The most that any one process ever held, kept by the system: none is missed.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int
    largest_bytes: int


class PeakMemory(threading.Thread):
    """Polls the memory of a process and its descendants; keeps the largest sum, and the largest process.

    Pages that processes share are divided between them (PSS); where the system does not tell, they
    count in full (RSS).
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak = self.largest = 0
        self._root = psutil.Process(pid)
        self._finished = threading.Event()

    def run(self) -> None:
        pause = POLL_S
        while not self._finished.wait(pause):
            begun = time.thread_time()
            with contextlib.suppress(psutil.NoSuchProcess):
                tree = [self._root, *self._root.children(recursive=True)]
                self.peak = max(self.peak, sum(resident(process) for process in tree))
                self.largest = max(self.largest, *(most_resident(process) for process in tree))
            pause = max(POLL_S, (time.thread_time() - begun) / WATCHING)

    def stop(self) -> None:
        """End polling."""
        self._finished.set()
        self.join()


def resident(process: psutil.Process) -> int:
    """Bytes of memory a process holds; 0 if it has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        with contextlib.suppress(psutil.Error):
            return int(process.memory_info().rss)
    except psutil.Error:
        pass
    return 0


def most_resident(process: psutil.Process) -> int:
    """The most bytes a process has held so far; what it holds now where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        mark = next(line for line in lines if line.startswith("VmHWM:"))
        return int(mark.split()[1]) * 1024
    with contextlib.suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


def run_command(command: tuple[str, ...], environment: dict[str, str], log: Path) -> Cost:
    """Run a command with its output in a file.

    Raises:
        BenchmarkError: it failed.
    """
    cpu, start = children_cpu_s(), time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            start_new_session=True,
        )
        memory = PeakMemory(process.pid)
        memory.start()
        try:
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
        finally:
            memory.stop()
    if status != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BenchmarkError(f"{' '.join(command)} ended with status {status}:\n{tail}")
    wall, cpu = time.perf_counter() - start, children_cpu_s() - cpu
    return Cost(wall, cpu, memory.peak, memory.largest)


def children_cpu_s() -> float:
    """Processor seconds of all ended child processes and their children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def nnunet_environment(work: Path) -> dict[str, str]:
    """The three folders nnU-Net wants to know."""
    return {
        "nnUNet_raw": str(work / "raw"),
        "nnUNet_preprocessed": str(work / "nnunet_preprocessed"),
        "nnUNet_results": str(work / "nnunet_results"),
    }
