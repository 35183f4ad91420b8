"""Scans in, segmentations out: one case at a time, an unreadable one does not stop the rest."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.dataset import find_images, require_channels
from renalplan.errors import ModelError, PredictionError, RenalplanError, UsageError
from renalplan.files import (
    Record,
    content_hash,
    read_record,
    value_hash,
    write_json,
)
from renalplan.geometry import Grid, Spacing
from renalplan.images import ENDINGS, Volume, image_ending, read_channels, write_volume
from renalplan.imports import load_class
from renalplan.inference.decisions import CaseDecisions, Decisions
from renalplan.inference.fields import MeanField, ProbabilityField
from renalplan.inference.postprocessing.apply import Removed, apply_rules, as_decisions
from renalplan.inference.postprocessing.shared import shared_rules
from renalplan.inference.probabilities import (
    ProbabilityRecord,
    probability_files,
    write_probabilities,
)
from renalplan.inference.segmenter import InferenceOptions, Segmenter
from renalplan.inference.weights import member_weights
from renalplan.model_folder import WEIGHTS, ModelFolder

REPORT = "predict_report.json"
POSTPROCESSING_NAME = "postprocessing"  # beside the models' names in <case>.json
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ScanFiles:
    """One case to predict."""

    id: str
    images: tuple[Path, ...]
    ending: str

    def fingerprint(self) -> str:
        """Changes when the case's files do: a result is only kept for the files it came from."""
        stats = [(path.resolve(), path.stat()) for path in self.images if path.exists()]
        return value_hash([(str(p), s.st_size, s.st_mtime_ns) for p, s in stats])


@dataclass
class PredictionReport:
    """What became of every case: `done`, `kept` (was there already) or the reason it failed."""

    inputs: dict[str, str] = field(default_factory=dict)  # case -> what its files were
    done: dict[str, float] = field(default_factory=dict)  # case -> seconds
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


class ReportFile(Record):
    """predict_report.json: which job filled the folder, from which inputs, with what success."""

    job: str
    models: list[str]
    folds: list[list[str]]
    inputs: dict[str, str]
    done_seconds: dict[str, float]
    kept: list[str]
    failed: dict[str, str]


class Predictor:
    """Predicts with one model, or with the mean of several that share their labels."""

    def __init__(
        self,
        members: list[Segmenter],
        weights: list[float] | None = None,
        *,
        postprocessing: bool = True,
    ) -> None:
        if not members:
            raise UsageError("no model to predict with.")
        self.members = members
        self.weights = member_weights(weights, len(members), "models")
        first = members[0].model
        for member in members[1:]:
            if member.model.scheme != first.scheme:
                raise ModelError(
                    f"{member.model.path} and {first.path} have different labels; "
                    "only models of the same labels can be averaged."
                )
            if member.model.description.channels != first.description.channels:
                raise ModelError(f"{member.model.path} and {first.path} have different channels.")
        self.model = first
        self.rules = shared_rules([m.model for m in members]) if postprocessing else ()

    @classmethod
    def from_model(
        cls,
        path: str | Path | ModelFolder,
        folds: list[str] | None = None,
        options: InferenceOptions | None = None,
        *,
        unfinished: bool = False,
        postprocessing: bool = True,
    ) -> Predictor:
        """Open a model folder.

        Args:
            path: The folder.
            folds: Which folds to average; None takes all finished ones.
            options: Device, step, mirroring.
            unfinished: Take `folds` as they are, for validating a fold that has just been trained.
            postprocessing: Apply the model's rules, if it has any (`postprocessing.json`).

        Raises:
            ModelError: the folder is no model, or a fold is not finished.
        """
        model = path if isinstance(path, ModelFolder) else ModelFolder.open(Path(path))
        if not (unfinished and folds):
            folds = model.choose_folds(folds)
        spec = model.record.segmenter
        where = str(model.path / "trainer.json")
        kind = load_class(spec.factory, Segmenter, where)  # type: ignore[type-abstract]
        member = kind(model, folds, options or InferenceOptions(), **spec.arguments)
        return cls([member], postprocessing=postprocessing)

    def field(self, volume: Volume) -> ProbabilityField:
        """Probabilities of the volume on its canonical grid.

        Raises:
            PredictionError: the volume has another number of channels than the model.
        """
        return self.decided(volume)[0]

    def decided(self, volume: Volume) -> tuple[ProbabilityField, dict[str, Decisions]]:
        """Probabilities, and model name -> what its rules decided, of the models that have rules.

        Raises:
            PredictionError: see `field`.
        """
        channels = self.model.description.channels
        if volume.array.shape[0] != len(channels):
            raise PredictionError(
                f"the model needs {len(channels)} channels ({', '.join(channels)}), "
                f"the image has {volume.array.shape[0]}."
            )
        fields = [member.segment(volume) for member in self.members]
        decisions = {
            name: field.decisions
            for name, field in zip(self._names(), fields, strict=True)
            if field.decisions is not None
        }
        return fields[0] if len(fields) == 1 else MeanField(fields, self.weights), decisions

    def _names(self) -> list[str]:
        """The model folders' names; their paths where two are alike."""
        paths = [member.model.path for member in self.members]
        names = [path.resolve().name for path in paths]
        return [
            str(path) if names.count(name) > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]

    def predict(self, array: NDArray, spacing: Spacing) -> NDArray:
        """Segment an array in memory.

        Args:
            array: (channel, z, y, x) or (z, y, x): z to the head, y to the back, x to the left.
            spacing: mm along (z, y, x).

        Returns:
            (z, y, x) label map.
        """
        image = np.asarray(array, np.float32)
        if image.ndim == 3:
            image = image[None]
        z, y, x = image.shape[1:]
        grid = Grid(
            size=(x, y, z),
            spacing=(spacing[2], spacing[1], spacing[0]),
            origin=(0.0, 0.0, 0.0),
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        )
        field = self.field(Volume(array=image, spacing=spacing, grid=grid))
        return self._labels(field, spacing)[0]

    def _labels(self, field: ProbabilityField, spacing: Spacing) -> tuple[NDArray, list[Removed]]:
        """The label map that obeys the rules, and what they removed."""
        labels = field.labels(self.model.scheme)
        if not self.rules:
            return labels, []
        return apply_rules(labels, spacing, self.model.scheme, self.rules)

    def predict_files(
        self, scan: ScanFiles, out: Path, *, save_probabilities: bool = False
    ) -> None:
        """Predict one case and write its segmentation on exactly the scan's grid, by rename.

        What the models' rules decided is there before the segmentation: `<case>.json`.
        """
        volume = read_channels(scan.images)
        field, decisions = self.decided(volume)
        labels, removed = self._labels(field, volume.spacing)
        if removed:
            decisions[POSTPROCESSING_NAME] = as_decisions(removed)
        for found in decisions.values():
            for remark in found.remarks:
                log.info("%s: %s", scan.id, remark)
        if save_probabilities:
            record = ProbabilityRecord(
                models=tuple(str(member.model.path) for member in self.members),
                ending=scan.ending,
                labels=self.model.scheme,
                grid=volume.grid,
                postprocessing=self.rules,
            )
            write_probabilities(out, scan.id, field, record)
        self._write_decisions(out / f"{scan.id}.json", scan.id, decisions)
        write_volume(out / f"{scan.id}{scan.ending}", labels, volume.grid)

    @staticmethod
    def _write_decisions(path: Path, case: str, decisions: dict[str, Decisions]) -> None:
        """Write a case's decisions; those of another model's prediction that is replaced go."""
        if not decisions:
            with contextlib.suppress(PredictionError):  # anything else of this name is not ours
                read_record(path, CaseDecisions, PredictionError)
                path.unlink()
            return
        values = {model: found.as_json() for model, found in decisions.items()}
        write_json(path, CaseDecisions(case=case, decisions=values))

    def predict_folder(
        self,
        scans: list[ScanFiles],
        out: Path,
        *,
        save_probabilities: bool = False,
        overwrite: bool = False,
        on_case: Callable[[str, str], None] | None = None,
    ) -> PredictionReport:
        """Predict cases one after the other; what a killed run finished is kept.

        Args:
            scans: From `find_scans`.
            out: Folder for segmentations, decisions (`<case>.json`) and `predict_report.json`.
            save_probabilities: Also write float16 probabilities.
            overwrite: Predict again what is already there.
            on_case: Called with (case, `done`, `kept` or the reason of failure).

        Raises:
            UsageError: `out` holds predictions of another model and `overwrite` is not given.
        """
        out.mkdir(parents=True, exist_ok=True)
        before = {} if overwrite else self._earlier_inputs(out)
        report = PredictionReport(inputs=dict(before))
        for scan in scans:
            state = "done"
            wanted = [out / f"{scan.id}{scan.ending}"]
            if save_probabilities:
                wanted += probability_files(out, scan.id)
            state_of_inputs = scan.fingerprint()
            if before.get(scan.id) == state_of_inputs and all(p.exists() for p in wanted):
                report.kept.append(scan.id)
                state = "kept"
            else:
                start = time.monotonic()
                try:
                    self.predict_files(scan, out, save_probabilities=save_probabilities)
                    report.done[scan.id] = round(time.monotonic() - start, 2)
                    report.inputs[scan.id] = state_of_inputs
                except ModelError:
                    raise  # no other scan would fare better
                except RenalplanError as problem:
                    state = report.failed[scan.id] = str(problem)
            self._write_report(out, report)
            if on_case:
                on_case(scan.id, state)
        return report

    def job(self) -> str:
        """Fingerprint of models, folds and options: same job, same results."""
        return self._job

    @cached_property
    def _job(self) -> str:
        parts = []
        for member in self.members:
            weights = [
                (str(p.relative_to(member.model.path)), content_hash(p))
                for fold in member.folds
                for phase in member.phases
                if (p := member.model.fold_folder(fold) / phase / WEIGHTS).is_file()
            ]
            options = member.options
            rules = member.model.record.segmenter.model_dump(mode="json")
            parts.append([weights, member.folds, options.step, options.tta, rules])
        applied = [rule.model_dump(mode="json") for rule in self.rules]
        return value_hash([parts, self.weights, *([applied] if applied else [])])

    def _earlier_inputs(self, out: Path) -> dict[str, str]:
        """What an earlier run of the same job predicted here, and from which files."""
        path = out / REPORT
        if not path.is_file():
            return {}
        earlier = read_record(path, ReportFile, PredictionError)
        if earlier.job != self.job():
            raise UsageError(
                f"{out} holds predictions of another model or other options; "
                "choose another output folder, or add --overwrite."
            )
        return earlier.inputs

    def _write_report(self, out: Path, report: PredictionReport) -> None:
        value = ReportFile(
            job=self.job(),
            models=[str(member.model.path) for member in self.members],
            folds=[member.folds for member in self.members],
            inputs=report.inputs,
            done_seconds=report.done,
            kept=report.kept,
            failed=report.failed,
        )
        write_json(out / REPORT, value)


def find_scans(path: Path, channels: tuple[str, ...]) -> Iterator[ScanFiles]:
    """Cases of a folder (or one file): `case_0000.nii.gz`, or plain names if there is one channel.

    Raises:
        UsageError: nothing to predict.
        DatasetError: a case lacks a channel.
    """
    if path.is_file():
        if (ending := image_ending(path)) is None:
            raise UsageError(f"{path} is not an image; we read {', '.join(ENDINGS)}.")
        if len(channels) > 1:
            raise UsageError(f"the model needs {len(channels)} channels; give -i a folder.")
        yield ScanFiles(id=path.name.removesuffix(ending), images=(path,), ending=ending)
        return
    if not path.is_dir():
        raise UsageError(f"input {path} does not exist.")
    found = find_images(path)
    for case, files in found.items():
        images = require_channels(case, files, channels, path)
        yield ScanFiles(id=case, images=images, ending=image_ending(images[0]) or ".nii.gz")
    if found:
        return
    plain = [p for p in sorted(path.iterdir()) if p.is_file() and image_ending(p)]
    if not plain:
        raise UsageError(f"{path} holds no images; we read {', '.join(ENDINGS)}.")
    if len(channels) > 1:
        raise UsageError(
            f"{path}: the model needs {len(channels)} channels, so files must be named "
            "case_0000, case_0001 and so on."
        )
    for file in plain:
        ending = image_ending(file) or ".nii.gz"
        yield ScanFiles(id=file.name.removesuffix(ending), images=(file,), ending=ending)
