"""What glibc keeps of freed memory, as it was told."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's way of keeping blocks"
)

HOLES = """
import numpy as np
from renalplan.allocation import return_large_blocks
from renalplan.inference.room import resident
wanted = {wanted}
assert not wanted or return_large_blocks()
np.ones(1 << 21)[0] = 2  # 16 MiB, freed: from now on glibc keeps smaller blocks
blocks = [np.ones(1 << 20) for _ in range(32)]  # 8 MiB each
before = resident()
del blocks[:-1]  # what the last one lies behind stays, if nobody says otherwise
print(before - resident())
"""


def test_freed_blocks_go_back_to_the_system_at_once() -> None:
    def freed(wanted: bool) -> int:
        code = HOLES.format(wanted=wanted)
        return int(subprocess.check_output([sys.executable, "-c", code], text=True))

    most = 230 << 20
    assert freed(True) > most
    if not any(freed(False) < most for _ in range(3)):
        pytest.skip("something lies in the heap's way: glibc gives blocks back by itself here")


AGAIN = """
import resource
import numpy as np
from renalplan.allocation import keep_freed_blocks
assert not {wanted} or keep_freed_blocks()
np.ones(1 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(1 << 20)  # 8 MiB each, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_blocks_are_used_again_where_dask_would_return_them() -> None:
    def faults(wanted: bool) -> int:
        code = AGAIN.format(wanted=wanted)
        told = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}  # as dask starts its workers
        return int(subprocess.check_output([sys.executable, "-c", code], text=True, env=told))

    pages = 10 * (8 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults(wanted=True) < pages / 100
    assert faults(wanted=False) > pages / 1000  # transparent huge pages count once


KEPT = """
import numpy as np
from renalplan.allocation import give_back, keep_freed_blocks
from renalplan.inference.room import resident
keep_freed_blocks()
blocks = [np.ones(1 << 20) for _ in range(10)]
del blocks
before = resident()
give_back()
print(before - resident())
"""


def test_what_is_kept_can_be_given_back() -> None:
    given = int(subprocess.check_output([sys.executable, "-c", KEPT], text=True))
    assert given > 60 << 20
