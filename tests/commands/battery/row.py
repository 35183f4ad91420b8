"""One row of the battery, and how the rows of a kind of file come from its faults and its readers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path("work/raw/Dataset001_Tiny")
DESCRIPTION = DATA / "dataset.json"
IMAGE, LABEL = DATA / "imagesTr/case_0_0000.nii.gz", DATA / "labelsTr/case_0.nii.gz"
SCANS, TRUTH = DATA / "imagesTs", DATA / "labelsTs"
SCAN = SCANS / "new_0000.nii.gz"
PREPROCESSED = Path("work/preprocessed") / DATA.name
STORE = PREPROCESSED / "renal/whole"
MODEL = Path("work/results") / DATA.name / "UNet"
FOLD = MODEL / "fold_0"
WEIGHTS = FOLD / "whole/model.safetensors"

PREDICT = f"predict -i {SCANS} -o out --device cpu --workers 0"
PLAN = "plan_and_preprocess 1 --gpu_memory 0.004 --base_features 4 --cascade none --workers 0"
TRAIN_LONG = "train 1 1 --workers 0 --device cpu"  # of the default schedule
TRAIN = f"{TRAIN_LONG} --set epochs=1 iterations=1 validation_iterations=0"

Prepare = Callable[[], Any]


def nothing() -> None:
    """What is wrong lies in the command line alone."""


@dataclass(frozen=True)
class Row:
    """One command line in one bad situation.

    Attributes:
        kind: What it belongs to; a heading in docs/robustness.md.
        fault: What is wrong.
        line: The command line, without `renalplan_`.
        says: Each of these must be in the answer: the file or value, and what to do.
        prepare: Makes it wrong; called in the current folder.
        status: What the command must return.
        lines: How long the answer is; longer than one only where it lists a choice, 0 where it lists
            whatever is wrong.
        writes: Paths (and what begins with them) that may change; everything else must stay as it was.
        makes: Files that must be there afterwards: the rest of the job.
        leaves_out: Files that must not.
        file: The bad file, for the table.
    """

    kind: str
    fault: str
    line: str
    says: tuple[str, ...] = ()
    prepare: Prepare = nothing
    status: int = 2
    lines: int = 1
    writes: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def command(self) -> str:
        """Its name without `renalplan_`."""
        return self.line.split()[0]

    @property
    def id(self) -> str:
        """What pytest calls it."""
        return f"{self.kind}: {self.fault}: {self.line}" + (f" ({self.file})" if self.file else "")


@dataclass(frozen=True)
class Reader:
    """A command that reads a kind of file.

    Attributes:
        line: Its command line.
        file: The file that is made bad.
        status: What it returns then.
        prepare: What has to be there first.
        writes, makes, leaves_out, lines: As in `Row`.
        fine: Faults that are none to it.
        another: Fault -> what its answer must hold besides the file's name, if not what the others' do.
    """

    line: str
    file: Path
    status: int = 2
    prepare: Prepare = nothing
    writes: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    leaves_out: tuple[str, ...] = ()
    lines: int = 1
    fine: tuple[str, ...] = ()
    another: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """Its name without `renalplan_`."""
        return self.line.split()[0]


@dataclass(frozen=True)
class Fault:
    """A way in which a file is bad.

    Attributes:
        name: In words.
        make: Makes the file so.
        says: What every answer must hold besides the file's name.
        fine: Commands for which it is none: they return 0 and say nothing.
        answers: Command -> all that its answer must hold instead.
    """

    name: str
    make: Callable[[Path], Any]
    says: tuple[str, ...]
    fine: tuple[str, ...] = ()
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)


def cross(kind: str, faults: Sequence[Fault], readers: Sequence[Reader]) -> Iterator[Row]:
    """Every fault before every reader."""
    for fault in faults:
        for reader in readers:
            yield _row(kind, fault, reader)


def _row(kind: str, fault: Fault, reader: Reader) -> Row:
    def prepare() -> None:
        reader.prepare()
        fault.make(reader.file)

    fine = reader.command in fault.fine or fault.name in reader.fine
    usual = reader.another.get(fault.name, fault.says)
    says = fault.answers.get(reader.command, (str(reader.file), *usual))
    return Row(
        kind=kind,
        fault=fault.name,
        line=reader.line,
        says=() if fine else says,
        prepare=prepare,
        status=0 if fine else reader.status,
        lines=0 if fine else reader.lines,
        writes=reader.writes,
        makes=reader.makes + (reader.leaves_out if fine else ()),
        leaves_out=() if fine else reader.leaves_out,
        file=reader.file,
    )
