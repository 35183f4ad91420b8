"""Type-check the package as it is installed, and prove that the checker sees it.

The rooms lie at the top level and are mapped into one namespace, which a checker run on the checkout
does not follow. So the package is laid out as setup.py installs it, outside the checkout, and checked there; an error
planted on purpose must be found, since a checker that silently checks nothing is worse than none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("planners", "trainers", "inference", "evaluation")
PLANTED = "def planted() -> int:\n    return 'not a number'\n"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "renalplan"
        shutil.copytree(ROOT / "renalplan", package, ignore=shutil.ignore_patterns("__pycache__"))
        for room in ROOMS:
            shutil.copytree(ROOT / room, package / room)
        shown = mypy(folder)
        sys.stdout.write(shown.stdout + shown.stderr)
        if shown.returncode:
            return 1
        for room in ("", *ROOMS):
            place = package / room / "planted_error.py"
            place.write_text(PLANTED)
        found = mypy(folder).stdout.count("planted_error.py:2: error")
        if found != 5:
            sys.stdout.write(f"the checker found {found} of 5 planted errors\n")
            return 1
    return 0


def mypy(folder: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "-p", "renalplan"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
