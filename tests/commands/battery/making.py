"""Ways to make a file bad that several kinds of file share."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def truncate(path: Path) -> None:
    """The first half of it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def content(value: bytes) -> Callable[[Path], Any]:
    """These bytes in its place."""
    return lambda path: path.write_bytes(value)


def a_folder(path: Path) -> None:
    """A folder of its name."""
    path.unlink()
    path.mkdir()


def a_loop(path: Path) -> None:
    """A link to itself."""
    path.unlink()
    path.symlink_to(path.name)


def a_dead_link(path: Path) -> None:
    """A link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")


def a_pipe(path: Path) -> None:
    """A named pipe that nobody writes into."""
    path.unlink()
    os.mkfifo(path)


def closed(path: Path) -> None:
    """Nobody may read it."""
    path.chmod(0)


def empty_folder(path: Path) -> None:
    """Nothing in it."""
    shutil.rmtree(path)
    path.mkdir()


def edit_json(path: Path, **values: Any) -> None:
    """Other values of some keys."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(path: Path, key: str) -> None:
    """The JSON without one key."""
    value = json.loads(path.read_text())
    del value[key]
    path.write_text(json.dumps(value))
