"""predict_report.json: what became of every case, and from which inputs and models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import Field

from renalplan.errors import PredictionError, UsageError
from renalplan.files import Record, read_record, write_json
from renalplan.locks import hold

REPORT = "predict_report.json"
PART_REPORT = re.compile(r"predict_report\.part_\d+_of_\d+\.json")


def make_output(folder: Path) -> None:
    """The output folder, made if it is not there.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"output {folder} is not a folder; choose another name.") from None
    except OSError as problem:
        raise UsageError(
            f"the output folder {folder} cannot be made ({problem.strerror}); choose another."
        ) from None


class HasId(Protocol):
    """A case, as far as parts are concerned."""

    @property
    def id(self) -> str:
        """Case id."""
        ...


Case = TypeVar("Case", bound=HasId)


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
    """predict_report.json: which job filled the folder, from which inputs, with what success.

    Attributes:
        job: Fingerprint of models, folds and options.
        models: Model folders.
        folds: Folds of each model.
        options: What of the options results depend on.
    """

    job: str
    models: list[str]
    folds: list[list[str]]
    options: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str]
    done_seconds: dict[str, float]
    kept: list[str]
    failed: dict[str, str]
    tracebacks: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of `count` machines that share a folder's cases.

    Attributes:
        index: Which one, from 0.
        count: How many there are; 1 is the whole.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UsageError(f"--parts {self.count} must be at least 1.")
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"--part {self.index} of --parts {self.count} does not exist; "
                f"parts are counted from 0 to {self.count - 1}."
            )

    def of(self, cases: Iterable[Case]) -> list[Case]:
        """This part's cases: every `count`-th one by id, the same on every machine."""
        return sorted(cases, key=lambda case: case.id)[self.index :: self.count]

    @property
    def report(self) -> str:
        """File name of its report: no two parts write the same file."""
        if self.count == 1:
            return REPORT
        return f"predict_report.part_{self.index}_of_{self.count}.json"


@contextmanager
def hold_output(out: Path, part: Part | None = None) -> Iterator[None]:
    """Fill a folder alone while the block runs; machines with other parts of a job may do so too.

    Raises:
        UsageError: another run fills it, or it cannot be made.
    """
    make_output(out)
    advice = ", or choose another folder"
    share = part or Part()
    with ExitStack() as stack:
        what = f"{out} is being filled"
        alone = share.count == 1
        stack.enter_context(hold(out, "prediction", what, advice, shared=not alone))
        if not alone:
            ours = f"part {share.index} of {share.count} in {out} is being predicted"
            stack.enter_context(hold(out, Path(share.report).stem, ours, advice))
        yield


@dataclass(frozen=True, kw_only=True)
class ReportWriter:
    """Keeps the report of one job, or of one part of it, up to date.

    Several reports may lie in a folder: of the whole and of parts, of runs with other numbers of parts.
    For each case the last one written that names it counts.

    Attributes:
        out: Folder of the segmentations.
        job: Fingerprint of models, folds and options.
        models: Model folders.
        folds: Folds of each model.
        options: What of the options results depend on, by name.
        part: Which part of the cases is ours.
    """

    out: Path
    job: str
    models: list[str]
    folds: list[list[str]]
    options: dict[str, Any] = field(default_factory=dict)
    part: Part = field(default_factory=Part)

    def _refuse_strangers(self, names: Iterable[str]) -> None:
        """Leave files alone that no run of ours has written: a folder without any report is not ours.

        Args:
            names: Of the files that this run would write.

        Raises:
            UsageError: one of them is there.
        """
        if self._reports():
            return
        if there := next((name for name in names if (self.out / name).exists()), None):
            raise UsageError(
                f"{self.out / there} is there and no predict_report.json says that we made it; "
                "choose another output folder, or add --overwrite."
            )

    def inputs_to_start_from(self, files: dict[str, str], *, overwrite: bool) -> dict[str, str]:
        """What the report says at the start of a run.

        Args:
            files: Case -> name of the file that the run will write of it.
            overwrite: Nothing that is there counts.

        Raises:
            UsageError: another job, or somebody else, filled the folder.
            PredictionError: a report there is damaged.
        """
        whole = self.part.count == 1
        if overwrite:  # a part says of its own cases that they count no more, and of no others
            return {} if whole else dict.fromkeys(files, "")
        self._refuse_strangers(files.values())
        return self._earlier_inputs(None if whole else files)

    def _earlier_inputs(self, cases: Iterable[str] | None = None) -> dict[str, str]:
        """What earlier runs of the same job predicted here, and from which files.

        Args:
            cases: Those of this part; None for all that any report names.

        Raises:
            UsageError: another job filled the folder.
            PredictionError: a report there is damaged.
        """
        last: dict[str, tuple[ReportFile, str]] = {}
        for path in self._reports():
            try:
                report = read_record(path, ReportFile, PredictionError)
            except PredictionError:
                if path.exists():
                    raise
                continue  # a run of the whole has just taken it over
            last.update({case: (report, files) for case, files in report.inputs.items()})
        if cases is not None:
            wanted = set(cases)
            last = {case: found for case, found in last.items() if case in wanted}
        for report, _ in last.values():
            if report.job != self.job:
                raise UsageError(
                    f"{self.out} holds predictions {self._unlike(report)}; "
                    "choose another output folder, or add --overwrite."
                )
        return {case: files for case, (_, files) in last.items()}

    def _unlike(self, report: ReportFile) -> str:
        """How another job's results came about, as far as the report tells it apart from ours."""
        if report.models != self.models:
            return f"of another model ({' and '.join(report.models)})"
        if report.folds != self.folds:
            folds = " and ".join(", ".join(folds) for folds in report.folds)
            return f"of other folds ({folds})"
        other = [
            f"{name} {_shown(value)}, now {_shown(self.options[name])}"
            for name, value in report.options.items()
            if value != self.options.get(name, value)
        ]
        if other:
            return f"made with other options ({', '.join(other)})"
        return "of this model with other weights, rules or member weights"

    def _reports(self) -> list[Path]:
        """The reports in the folder, the last one written last."""
        found = []
        for path in self.out.glob(f"{Path(REPORT).stem}*.json"):
            with suppress(FileNotFoundError):  # gone in the meantime, see above
                if path.name == REPORT or PART_REPORT.fullmatch(path.name):
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def begin(self, report: PredictionReport) -> None:
        """Write the state from which this run starts.

        The report of the whole takes those of parts over, so they go.
        """
        self.write(report)
        if self.part.count == 1:
            for path in self._reports():
                if path.name != REPORT:
                    path.unlink(missing_ok=True)

    def write(self, report: PredictionReport) -> None:
        """Replace the report by this state, by rename."""
        value = ReportFile(
            job=self.job,
            models=self.models,
            folds=self.folds,
            options=self.options,
            inputs=report.inputs,
            done_seconds=report.done,
            kept=report.kept,
            failed=report.failed,
            tracebacks=report.tracebacks,
        )
        write_json(self.out / self.part.report, value)


def _shown(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
