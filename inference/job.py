"""A folder as a job: every case once, what is there is kept, one that fails does not stop the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from renalplan.errors import ModelError
from renalplan.files import remove_leftovers
from renalplan.images import Volume
from renalplan.inference.failures import explain
from renalplan.inference.probabilities import probability_files
from renalplan.inference.readers import ReadAhead, ReadHere, open_scans
from renalplan.inference.report import PredictionReport, ReportWriter
from renalplan.inference.scans import ScanFiles
from renalplan.inference.writer import BackgroundWriter, WriteHere

Write = Callable[[], None]
OnCase = Callable[[str, str], None]


class CaseSegmenter(Protocol):
    """What the job needs of a predictor."""

    def segment_case(
        self, scan: ScanFiles, volume: Volume, out: Path, *, save_probabilities: bool
    ) -> Write:
        """Compute a case; what is returned writes its result."""
        ...


@dataclass
class Ledger:
    """The state of a job's cases, on disk after every change.

    Attributes:
        writer: Writes the report.
        report: The state.
        on_case: Told (case, `started`, `done`, `kept` or the reason of failure), maybe by the
            thread that writes.
        started: Case -> when.
        also: Further files that a case must have to be done; {case} stands for its id.
    """

    writer: ReportWriter
    report: PredictionReport
    on_case: OnCase | None = None
    started: dict[str, float] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def kept(self, case: str) -> None:
        """It was there already."""
        with self._lock:
            self.report.kept.append(case)
            if self.on_case:
                self.on_case(case, "kept")

    def start(self, case: str) -> None:
        """Its time runs from here."""
        self.started[case] = time.monotonic()
        if self.on_case:
            self.on_case(case, "started")

    def done(self, case: str, inputs: str, seconds: float | None = None) -> None:
        """Its segmentation is written, from files of this fingerprint; `seconds` if not since `start`."""
        with self._lock:
            if seconds is None:
                seconds = round(time.monotonic() - self.started[case], 2)
            self.report.done[case] = seconds
            self.report.inputs[case] = inputs
            self._say(case, "done")

    def failed(self, case: str, problem: BaseException) -> None:
        """It failed for this reason."""
        failure = explain(problem)
        with self._lock:
            self.report.failed[case] = failure.reason
            if failure.traceback is not None:
                self.report.tracebacks[case] = failure.traceback
            self._say(case, failure.reason)

    def _say(self, case: str, state: str) -> None:
        self.writer.write(self.report)
        if self.on_case:
            self.on_case(case, state)


def run_job(
    predictor: CaseSegmenter,
    scans: Sequence[ScanFiles],
    out: Path,
    ledger: Ledger,
    *,
    save_probabilities: bool = False,
    workers: int = 0,
) -> None:
    """Predict the cases that the ledger's report does not know as done from the same files.

    Args:
        predictor: Computes.
        scans: All cases.
        out: Folder for the results.
        ledger: With a report that knows what is there already.
        save_probabilities: Also write probabilities.
        workers: Processes that read the next cases meanwhile; the last result is then written
            meanwhile too. 0 does one thing after the other.

    Raises:
        ModelError: the model is damaged; no other case would fare better.
        OSError: a result cannot be written; nor could others.
        WorkerError: writing makes no progress.
    """
    chosen = start_job(scans, out, ledger, save_probabilities=save_probabilities)
    writer = BackgroundWriter(out) if workers else WriteHere()
    try:
        with open_scans(chosen, workers) as volumes:
            for index, scan in enumerate(chosen):
                ledger.start(scan.id)
                try:
                    inputs, write = _compute(
                        predictor, volumes, index, out, save_probabilities=save_probabilities
                    )
                except (ModelError, ResultError):
                    raise
                except Exception as problem:
                    ledger.failed(scan.id, problem)
                else:
                    writer.put(partial(_finish, ledger, scan.id, inputs, write))
                    del write  # a result goes when it is written, not when the next one is there
    except ResultError as problem:
        raise problem.reason from None
    finally:
        writer.close()


class ResultError(Exception):
    """A result could not be written while its case was computed: no matter of this case alone."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def _compute(
    predictor: CaseSegmenter,
    volumes: ReadAhead | ReadHere,
    index: int,
    out: Path,
    *,
    save_probabilities: bool,
) -> tuple[str, Write]:
    """Take a case and compute it; its scan is in memory no longer than this takes.

    Returns:
        The fingerprint of its files, and what writes its result.
    """
    scan, read = volumes.scans[index], volumes.take(index)
    try:
        write = predictor.segment_case(
            scan, read.volume, out, save_probabilities=save_probabilities
        )
    except OSError as problem:
        raise ResultError(problem) from None
    return read.inputs, write


def _finish(ledger: Ledger, case: str, inputs: str, write: Write) -> None:
    """Write a case's result and note it. Raises OSError if it cannot be written."""
    try:
        write()
    except OSError:
        raise
    except Exception as problem:
        ledger.failed(case, problem)
    else:
        ledger.done(case, inputs)


def start_job(
    scans: Sequence[ScanFiles], out: Path, ledger: Ledger, *, save_probabilities: bool
) -> list[ScanFiles]:
    """The cases that are still to be predicted; the others are noted as kept.

    From now on the cases in the folder are this job's.
    """
    remove_leftovers_of(scans, out, also=ledger.writer.part.report)
    before, chosen = ledger.report.inputs, []
    for scan in scans:
        names = output_names(scan, save_probabilities)
        names += [name.format(case=scan.id) for name in ledger.also]
        there = all((out / name).exists() for name in names)
        if there and before.get(scan.id) == scan.fingerprint():
            ledger.kept(scan.id)
        else:
            chosen.append(scan)
    ledger.writer.begin(ledger.report)
    return chosen


def output_names(scan: ScanFiles, save_probabilities: bool) -> list[str]:
    """Files that a case must have to be done."""
    names = [f"{scan.id}{scan.ending}"]
    if save_probabilities:
        names += [path.name for path in probability_files(Path(), scan.id)]
    return names


def remove_leftovers_of(scans: Sequence[ScanFiles], out: Path, *, also: str) -> None:
    """Delete what a killed run left unfinished of these cases.

    Of these alone: other parts of the same job may be writing into the folder at this moment.
    """
    ours = {also, *(f"{scan.id}.json" for scan in scans)}
    for scan in scans:
        ours.update(output_names(scan, save_probabilities=True))
    remove_leftovers(out, ours)
