"""Ways in which a reading process can fail, told by the case's id: `dies`, `dies_once` and so on."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import numpy as np

from renalplan.images import Volume
from renalplan.inference.scans import ScanFiles


def _first_time(scan: ScanFiles) -> bool:
    mark = Path(f"{scan.images[0]}.seen")
    known = mark.exists()
    mark.touch()
    return not known


def read(scan: ScanFiles) -> Volume:
    """As `scan.read()`, unless the id says otherwise."""
    what = scan.id.removesuffix("_once")
    if not scan.id.endswith("_once") or _first_time(scan):
        if what == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "crashed":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "left":
            os._exit(7)
        if what == "hung":
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "raised":
            raise ValueError("what nobody foresaw")
        if what == "large":
            resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
            np.ones(1 << 30)
    return scan.read()
