"""Time, processors and GPU of a repeated step; needs nothing but PyTorch, so that nnU-Net's Python runs it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POLL_S = 0.25


class GpuLoad(threading.Thread):
    """Asks nvidia-smi how busy the GPU is, until it is stopped; on other devices it does nothing."""

    def __init__(self, device: str) -> None:
        super().__init__(daemon=True)
        self._index = torch.device(device).index or 0
        self._watches = torch.device(device).type == "cuda"
        self._found: list[tuple[float, float]] = []
        self._finished = threading.Event()

    def run(self) -> None:
        command = ["nvidia-smi", f"--id={self._index}", "--query-gpu=utilization.gpu"]
        while self._watches and not self._finished.wait(POLL_S):
            answer = subprocess.run(
                [*command, "--format=csv,noheader,nounits"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            if answer.isdecimal():
                self._found.append((time.monotonic(), float(answer)))

    def stop(self, since: float, until: float) -> float | None:
        """End watching; mean per cent between two times of `time.monotonic`, None if unknown."""
        self._finished.set()
        within = [load for when, load in self._found if since <= when <= until]
        return sum(within) / len(within) if within else None


def gpu_bytes(device: str) -> int | None:
    """Most memory that PyTorch has reserved on a GPU; None on other devices."""
    if torch.device(device).type != "cuda":
        return None
    return int(torch.cuda.max_memory_reserved(device))


def wait_for(device: str) -> None:
    """Until the GPU has done all it was told."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def tree_cpu_s() -> float | None:
    """Processor seconds of this process and those it has running; None where the system does not tell."""
    waiting, total = [os.getpid()], 0.0
    if not Path("/proc/self/stat").is_file():
        return None
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        with contextlib.suppress(OSError):  # it has just ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            for task in (folder / "task").iterdir():
                waiting += [int(pid) for pid in (task / "children").read_text().split()]
    return total


@dataclass(frozen=True)
class Clock:
    """A moment: seconds, and processor seconds that were spent until then."""

    start: float
    cpu: float | None

    @classmethod
    def now(cls) -> Clock:
        return cls(time.monotonic(), tree_cpu_s())

    def until_now(self, steps: int) -> dict[str, Any]:
        """Seconds and processor seconds of one of the steps since, and when all began and ended."""
        end = Clock.now()
        spent = None if self.cpu is None or end.cpu is None else (end.cpu - self.cpu) / steps
        seconds = (end.start - self.start) / steps
        return {"seconds": seconds, "cpu_s": spent, "start": self.start, "end": end.start}


def timed(step: Callable[[], object], steps: int, device: str) -> dict[str, Any]:
    """`Clock.until_now` for so many steps."""
    wait_for(device)
    clock = Clock.now()
    for _ in range(steps):
        step()
    wait_for(device)
    return clock.until_now(steps)


def report(found: dict[str, Any], load: GpuLoad, device: str) -> dict[str, Any]:
    """What a measuring script writes down."""
    return {
        "seconds": found["seconds"],
        "cpu_s": found["cpu_s"],
        "gpu_bytes": gpu_bytes(device),
        "gpu_load": load.stop(found["start"], found["end"]),
    }
