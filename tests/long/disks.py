"""File systems of a test's own, which fill up or are closed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 5.0  # in which who works there must have ended


@contextmanager
def disk(folder: Path, *, own: bool) -> Iterator[Callable[[str], None]]:
    """A folder; if it is to be full or closed a file system of its own, with what remounts it."""

    def remount(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)

    folder.mkdir(exist_ok=True)
    if not own:
        yield remount
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1G", "tmpfs", str(folder)], check=True)
    try:
        yield remount
    finally:
        limit = time.monotonic() + SECONDS  # who works there may need a moment to end
        while subprocess.run(
            ["umount", str(folder)], check=False, stderr=subprocess.DEVNULL
        ).returncode:
            if time.monotonic() > limit:
                raise SystemExit(f"{folder} cannot be unmounted; is a process still at work there?")
            time.sleep(0.1)
