"""Bad tables of held-out cases, before the command that chooses among models by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from battery import making
from battery.row import FOLD, Fault, Reader, Row, cross


def replaced(old: str, new: str) -> Callable[[Path], Any]:
    """Another text in some cells."""

    def make(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return make


def with_dice(value: str) -> Callable[[Path], Any]:
    """Another Dice in its first row."""

    def make(path: Path) -> None:
        head, row, *others = path.read_text().splitlines()
        cells = row.split(",")
        cells[head.split(",").index("dice")] = value
        path.write_text("\n".join([head, ",".join(cells), *others, ""]))

    return make


def two_runs() -> None:
    """Tables of two cases in the folders `one` and `two`."""
    text = (FOLD / "validation/per_case.csv").read_text()
    second = text.splitlines()[1].replace("case_1", "case_0")
    for name in ("one", "two"):
        Path(name).mkdir()
        Path(name, "per_case.csv").write_text(f"{text}{second}\n")


def says(*parts: str, compare: tuple[str, ...] | None = None) -> dict[str, tuple[str, ...]]:
    """An answer of `find_best` that does not name the file, and another one of `compare`."""
    return {"find_best": parts} | ({} if compare is None else {"compare": compare})


FAULTS = [
    Fault("no bytes at all", making.content(b""), ()),
    Fault("binary garbage", making.content(bytes(range(256)) * 4), ("cannot be read as a table",)),
    Fault("other columns", making.content(b"case\n1\n"), ("lacks the",)),
    Fault(
        "an unknown case",
        replaced("case_1", "../../case_1"),
        (),
        answers=says(
            "no labels of ../../case_1", compare=("not of the same cases", "../../case_1")
        ),
    ),
    Fault(
        "an unknown structure",
        replaced("kidney", "spleen"),
        (),
        answers=says(
            "are of spleen",
            "validates anew",
            compare=("do not score the same structures", "spleen"),
        ),
    ),
    Fault("words as Dice", with_dice("good"), ()),
    Fault("a Dice that is NaN", with_dice("nan"), ()),
    Fault("a Dice above 1", with_dice("7"), ("beyond 0 to 1",)),
    Fault(
        "a folder of its name",
        making.a_folder,
        (),
        answers=says(
            "no scored held-out cases", "renalplan_train", compare=("neither per_case.csv nor",)
        ),
    ),
    Fault("no permission to read it", making.closed, ("ermission",)),
]


def rows() -> Iterator[Row]:
    table = FOLD / "validation/per_case.csv"
    readers = [
        Reader("find_best 1 --workers 0", table),
        Reader("compare one two -o out", Path("two/per_case.csv"), prepare=two_runs, leaves_out=("out",)),
    ]  # fmt: skip
    yield from cross("Tables of scores", FAULTS, readers)
