"""predict_report.json: what became of every case, and from which inputs and models."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from renalplan.errors import PredictionError, UsageError
from renalplan.files import Record, read_record, write_json

REPORT = "predict_report.json"


@dataclass
class PredictionReport:
    """What became of every case: `done`, `kept` (was there already) or the reason it failed.

    Attributes:
        inputs: Case -> fingerprint of the files its segmentation came from.
        done: Case -> seconds.
        kept: Cases that were there already.
        failed: Case -> reason.
        tracebacks: Case -> where it failed, if that was not foreseen.
    """

    inputs: dict[str, str] = field(default_factory=dict)
    done: dict[str, float] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    tracebacks: dict[str, str] = field(default_factory=dict)


class ReportFile(Record):
    """predict_report.json: which job filled the folder, from which inputs, with what success."""

    job: str
    models: list[str]
    folds: list[list[str]]
    inputs: dict[str, str]
    done_seconds: dict[str, float]
    kept: list[str]
    failed: dict[str, str]
    tracebacks: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class ReportWriter:
    """Keeps the report of one job up to date.

    Attributes:
        out: Folder of the segmentations.
        job: Fingerprint of models, folds and options.
        models: Model folders.
        folds: Folds of each model.
    """

    out: Path
    job: str
    models: list[str]
    folds: list[list[str]]

    def earlier_inputs(self) -> dict[str, str]:
        """What an earlier run of the same job predicted here, and from which files.

        Raises:
            UsageError: another job filled the folder.
            PredictionError: the report there is damaged.
        """
        path = self.out / REPORT
        if not path.is_file():
            return {}
        earlier = read_record(path, ReportFile, PredictionError)
        if earlier.job != self.job:
            raise UsageError(
                f"{self.out} holds predictions of another model or other options; "
                "choose another output folder, or add --overwrite."
            )
        return earlier.inputs

    def write(self, report: PredictionReport) -> None:
        """Replace the report by this state, by rename."""
        value = ReportFile(
            job=self.job,
            models=self.models,
            folds=self.folds,
            inputs=report.inputs,
            done_seconds=report.done,
            kept=report.kept,
            failed=report.failed,
            tracebacks=report.tracebacks,
        )
        write_json(self.out / REPORT, value)
