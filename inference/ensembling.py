"""Folders of saved probabilities in, segmentations of their mean out; a few slices in memory at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.errors import PredictionError, RenalplanError, UsageError
from renalplan.files import (
    Record,
    read_record,
    real_path,
    remove_leftovers,
    value_hash,
    write_json,
)
from renalplan.geometry import Orientation
from renalplan.images import write_volume
from renalplan.inference.fields import slab_ranges
from renalplan.inference.label_names import find_label_names, write_label_names
from renalplan.inference.postprocessing.apply import apply_rules
from renalplan.inference.postprocessing.shared import agreed
from renalplan.inference.probabilities import SavedProbabilities, probability_files, saved_cases
from renalplan.inference.report import REPORT as PREDICT_REPORT
from renalplan.inference.report import PredictionReport, hold_output
from renalplan.inference.weights import member_weights, require_once
from renalplan.postprocessing import Rule

REPORT = "ensemble_report.json"
log = logging.getLogger(__name__)


class EnsembleReport(Record):
    """ensemble_report.json: which folders were averaged how, with what success.

    Attributes:
        job: Fingerprint of folders, weights and rules.
        folders: What was averaged.
        weights: How much each counts; None if all count alike.
        models: Folder -> the models its probabilities are of.
        inputs: Case -> what its files were.
    """

    job: str
    folders: tuple[str, ...]
    weights: tuple[float, ...] | None
    models: dict[str, tuple[str, ...]]
    inputs: dict[str, str]
    done_seconds: dict[str, float]
    kept: list[str]
    failed: dict[str, str]


@dataclass(frozen=True)
class Ensemble:
    """Folders that fit together.

    Attributes:
        folders: Of saved probabilities.
        weights: One a folder; None if all count alike.
        cases: What all of them hold.
        models: Folder -> the models of its first case.
        rules: Of the models, where all agree on them.
    """

    folders: tuple[Path, ...]
    weights: list[float] | None
    cases: tuple[str, ...]
    models: dict[str, tuple[str, ...]]
    rules: tuple[Rule, ...] = ()

    @classmethod
    def open(
        cls,
        folders: Sequence[Path],
        weights: Sequence[float] | None = None,
        *,
        postprocessing: bool = True,
    ) -> Ensemble:
        """Check every case of every folder, before any is averaged.

        Raises:
            UsageError: fewer than two folders, one given twice, or they differ in cases, labels or
                grids; or weights that do not fit; the sentence names the file.
        """
        if len(folders) < 2:
            raise UsageError("an ensemble needs at least two folders of saved probabilities.")
        require_once(folders)
        counted = member_weights(weights, len(folders), "folders")
        cases = saved_cases(folders[0])
        for folder in folders[1:]:
            _require_same_cases(cases, folders[0], folder)
        models: dict[str, tuple[str, ...]] = {}
        rules: dict[str, tuple[Rule, ...]] = {}
        for case in cases:
            for folder, member in zip(folders, _open_case(folders, case), strict=True):
                models.setdefault(str(folder), member.record.models)
                if member.record.postprocessing not in rules.values():
                    rules[str(member.path)] = member.record.postprocessing
        shared = agreed(list(rules.values()), list(rules)) if postprocessing else ()
        return cls(tuple(folders), counted, tuple(cases), models, shared)

    def average(self, case: str, out: Path) -> Path:
        """Write the segmentation of a case's mean probabilities on the scan's grid, by rename.

        Raises:
            PredictionError: an array is damaged.
            UsageError: see `open`.
        """
        members = _open_case(self.folders, case)
        record = members[0].record
        orientation = Orientation.of(record.grid)
        labels = orientation.apply(mean_labels(members, self.weights))
        if self.rules:
            spacing = orientation.spacing(record.grid)
            labels, removed = apply_rules(labels, spacing, record.labels, self.rules)
            for found in removed:
                log.info("%s: %s", case, found.sentence())
        path = out / f"{case}{record.ending}"
        write_volume(path, labels, record.grid)
        return path

    def job(self) -> str:
        """Fingerprint of folders, weights and rules."""
        folders = [str(real_path(folder)) for folder in self.folders]
        rules = [rule.model_dump(mode="json") for rule in self.rules]
        return value_hash([folders, self.weights, rules])

    def fingerprint(self, case: str) -> str:
        """Changes when a case's files do."""
        files = [path for folder in self.folders for path in probability_files(folder, case)]
        stats = [path.stat() for path in files]
        return value_hash([(s.st_size, s.st_mtime_ns) for s in stats])


def mean_labels(
    members: Sequence[SavedProbabilities], weights: Sequence[float] | None = None
) -> NDArray:
    """The labels that the weighted mean decides on, in the file's own axis order (k, j, i).

    Args:
        members: Of one case.
        weights: One a member; None if all count alike.

    Raises:
        PredictionError: an array is damaged.
    """
    scheme, shape = members[0].record.labels, members[0].record.grid.shape
    counted = list(weights or [1.0] * len(members))
    result = scheme.empty(shape)
    for start, stop in slab_ranges(scheme.heads, shape):
        total = np.zeros((scheme.heads, stop - start, *shape[1:]), np.float32)
        for member, weight in zip(members, counted, strict=True):
            total += member.slab(start, stop) * np.float32(weight / sum(counted))
        result[start:stop] = scheme.decide(total)
    return result


def ensemble_folders(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    weights: Sequence[float] | None = None,
    postprocessing: bool = True,
    overwrite: bool = False,
    on_case: Callable[[str, str], None] | None = None,
) -> PredictionReport:
    """Average what several predictions of the same scans saved, and decide the labels.

    Args:
        folders: Each written by `predict(..., save_probabilities=True)`.
        out: Folder for the segmentations and `ensemble_report.json`. What a killed run finished
            there is kept.
        weights: How much each folder counts; all alike if None.
        postprocessing: Apply the models' rules, if the folders agree on them.
        overwrite: Average again what is already there.
        on_case: Called with (case, `done`, `kept` or the reason of failure).

    Raises:
        UsageError: the folders do not go together (see `Ensemble.open`), or `out` holds something
            else, or is being filled by another run.
    """
    out = Path(out)
    paths = [Path(folder) for folder in folders]
    ensemble = Ensemble.open(paths, weights, postprocessing=postprocessing)
    with hold_output(out):
        return _average_all(ensemble, out, overwrite, on_case)


def _average_all(
    ensemble: Ensemble, out: Path, overwrite: bool, on_case: Callable[[str, str], None] | None
) -> PredictionReport:
    before = _earlier_inputs(ensemble, out, overwrite)
    report = PredictionReport(inputs=dict(before))
    remove_leftovers(out)
    _say_labels(ensemble, out, overwrite)
    for case in ensemble.cases:
        state, start = "done", time.monotonic()
        try:
            inputs = ensemble.fingerprint(case)
            member = SavedProbabilities.open(ensemble.folders[0], case)
            target = out / f"{case}{member.record.ending}"
            if before.get(case) == inputs and target.exists():
                report.kept.append(case)
                state = "kept"
            else:
                ensemble.average(case, out)
                report.done[case] = round(time.monotonic() - start, 2)
                report.inputs[case] = inputs
        except RenalplanError as problem:
            state = report.failed[case] = str(problem)
        _write_report(out, ensemble, report)
        if on_case:
            on_case(case, state)
    return report


def _say_labels(ensemble: Ensemble, out: Path, overwrite: bool) -> None:
    """dataset.json, if one of the folders has it: saved probabilities alone name no channels."""
    first = SavedProbabilities.open(ensemble.folders[0], ensemble.cases[0]).record
    if said := find_label_names(ensemble.folders, first.labels):
        write_label_names(out, said, first.ending, overwrite=overwrite, alone=True)


def _open_case(folders: Sequence[Path], case: str) -> list[SavedProbabilities]:
    """A case of all folders, of the same labels on the same grid."""
    members = [SavedProbabilities.open(folder, case) for folder in folders]
    first = members[0]
    for member in members[1:]:
        if member.record.labels != first.record.labels:
            raise UsageError(
                f"{member.path} and {first.path} have different labels; only probabilities of the "
                "same labels can be averaged."
            )
        if differences := first.record.grid.differences(member.record.grid):
            raise UsageError(
                f"{member.path} does not lie on the grid of {first.path}: "
                f"{'; '.join(differences)}. Predict the same scans into both folders."
            )
    return members


def _require_same_cases(cases: list[str], first: Path, folder: Path) -> None:
    found = set(saved_cases(folder))
    for here, there, lacking in (
        (folder, first, set(cases) - found),
        (first, folder, found - set(cases)),
    ):
        if lacking:
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise UsageError(
                f"{probability_files(here, min(lacking))[0]} is missing{more}, which {there} has; "
                "predict the same scans into both folders."
            )


def _earlier_inputs(ensemble: Ensemble, out: Path, overwrite: bool) -> dict[str, str]:
    """What an earlier run of the same job averaged here, and from which files."""
    if real_path(out) in [real_path(folder) for folder in ensemble.folders]:
        raise UsageError(f"the output {out} is also an input; choose another folder.")
    if (out / PREDICT_REPORT).is_file():
        raise UsageError(f"{out} holds predictions of a model; choose another output folder.")
    path = out / REPORT
    if overwrite or not path.is_file():
        return {}
    earlier = read_record(path, EnsembleReport, PredictionError)
    if earlier.job != ensemble.job():
        raise UsageError(
            f"{out} holds the mean of other folders, or with other weights or options; choose "
            "another output folder, or add --overwrite."
        )
    return earlier.inputs


def _write_report(out: Path, ensemble: Ensemble, report: PredictionReport) -> None:
    value = EnsembleReport(
        job=ensemble.job(),
        folders=tuple(str(folder) for folder in ensemble.folders),
        weights=None if ensemble.weights is None else tuple(ensemble.weights),
        models=ensemble.models,
        inputs=report.inputs,
        done_seconds=report.done,
        kept=report.kept,
        failed=report.failed,
    )
    write_json(out / REPORT, value)
