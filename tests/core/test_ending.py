"""A program's end: what is registered runs, what is open is closed, nobody looks for cycles."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, sys
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from renalplan.ending import end_quickly

class Cycle:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("looked for", flush=True)

def work(folder):
    {call}
    kept = Cycle()
    del kept
    atexit.register(print, "registered", flush=True)
    here = TemporaryDirectory(dir=folder)
    file = open(Path(folder) / "written", "w")
    file.write("whole")
    globals()["kept"] = here, file

if __name__ == "__main__":
    if sys.argv[2] == "here":
        work(sys.argv[1])
    else:
        process = get_context("spawn").Process(target=work, args=(sys.argv[1],))
        process.start()
        process.join()
"""


@pytest.mark.parametrize("where", ["here", "spawned"])
@pytest.mark.parametrize("quickly", [True, False])
def test_a_program_ends_without_a_last_search(tmp_path: Path, where: str, quickly: bool) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM.format(call="end_quickly()" if quickly else "pass"))
    folder = tmp_path / "folder"
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, str(script), str(folder), where],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("looked for" in ran.stdout) is not quickly
    assert "registered" in ran.stdout
    assert [path.name for path in folder.iterdir()] == ["written"]  # the temporary folder is gone
    assert (folder / "written").read_text() == "whole"
