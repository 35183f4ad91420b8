"""What a dataset of phantoms remembers while it is made, so that the same command continues it.

A hidden folder in it holds what was asked for and, of every case whose files are complete, what the
tables say of it. It goes last, when dataset.json is there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Self

from renalplan.errors import UsageError
from renalplan.files import Record, read_record, remove_leftovers, value_hash, write_json

FOLDER = ".phantom"
ASKED = "asked.json"


class Asked(Record):
    """asked.json: the fingerprint of what was asked for."""

    asked: str


class Made(Record):
    """What the tables say of a case.

    Attributes:
        phases: Names of its channels.
        truth: What is known exactly.
        boxes: Half-open tumor boxes (z0, y0, x0, z1, y1, x1) in the file's own array order.
    """

    phases: tuple[str, ...]
    truth: dict[str, Any]
    boxes: tuple[tuple[int, ...], ...]


def is_unfinished(out: Path) -> bool:
    """Whether a folder holds a dataset of phantoms that was begun and not finished."""
    return (out / FOLDER / ASKED).is_file()


def require_free(out: Path) -> None:
    """A folder for phantoms is empty, or holds what an ended run began.

    Raises:
        UsageError: it holds something else.
    """
    if _holds_others(out) and not is_unfinished(out):
        raise UsageError(f"{out} is not empty; choose a new folder.")


def _holds_others(out: Path) -> bool:
    """Whether anything is there besides this memory and the lock."""
    return out.is_dir() and any(not path.name.startswith(FOLDER) for path in out.iterdir())


class Unfinished:
    """The memory of one dataset in the making; it goes when the block ends well, or made nothing.

    Attributes:
        out: The dataset's folder.
        folder: Where the memory lies.
        done: Case -> what was made of it by earlier runs.
    """

    def __init__(self, out: Path, asked: Any) -> None:
        """Begin a dataset, or go on with the one that was begun; what a killed run left goes.

        Args:
            out: The dataset's folder, which nobody else fills.
            asked: All that its content depends on, as JSON values.

        Raises:
            UsageError: another dataset was begun there.
            DatasetError: the memory is damaged.
        """
        self.out, self.folder = out, out / FOLDER
        wanted = Asked(asked=value_hash(asked))
        if is_unfinished(out):
            if read_record(self.folder / ASKED, Asked) != wanted:
                raise UsageError(
                    f"{out} holds the beginning of a dataset of phantoms that was asked for otherwise; "
                    "ask for the same again, delete the folder, or choose a new one."
                )
            for folder in (out, *(path for path in out.iterdir() if path.is_dir())):
                remove_leftovers(folder)
        else:
            write_json(self.folder / ASKED, wanted)
        records = sorted(self.folder.glob("case.*.json"))
        self.done = {
            path.name.removeprefix("case.").removesuffix(".json"): read_record(path, Made)
            for path in records
        }

    def keep(self, case: str, made: Made) -> None:
        """Remember a case whose files are complete."""
        write_json(self.folder / f"case.{case}.json", made)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and _holds_others(self.out):
            return
        for path in self.folder.glob("case.*.json"):
            path.unlink()
        shutil.rmtree(self.folder)  # what was asked for last: who is ended before it can go on
