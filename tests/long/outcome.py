"""What a run leaves, and what is not as in an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path

import blosc2

from renalplan.files import TEMPORARY

SECONDS = ("seconds", "done_seconds", "kept")  # what may differ in a JSON file


def contents(folder: Path) -> dict[str, object]:
    """Every file that a run leaves, without the seconds that things took."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or "events.out" in name or path.name == "progress.png":
            continue
        if path.suffix == ".b2nd":  # the container has room at its end
            array = blosc2.open(str(path), mode="r")
            found[name] = (array.shape, str(array.dtype), array[:].tobytes())
        elif path.suffix == ".json":
            value = json.loads(path.read_text())
            found[name] = {k: v for k, v in value.items() if k not in SECONDS}
        elif path.name == "log.csv":
            lines = [line.split(",") for line in path.read_text().splitlines()]
            timed = lines[0].index("seconds")
            found[name] = [line[:timed] + line[timed + 1 :] for line in lines]
        else:
            found[name] = path.read_bytes()
    return found


def compare(folder: Path, expected: dict[str, object]) -> list[str]:
    """What is not as in the undisturbed run."""
    found = contents(folder)
    names = sorted(found.keys() | expected.keys())
    return [f"{name} differs" for name in names if found.get(name) != expected.get(name)]


def leftovers(folder: Path) -> list[Path]:
    """Unfinished files and locks."""
    return [
        path
        for path in folder.rglob(".*")
        if path.name.startswith(TEMPORARY) or path.name.endswith(".lock")
    ]
