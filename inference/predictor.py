"""Scans in, segmentations out: one case at a time, an unreadable one does not stop the rest."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renalplan.allocation import return_large_blocks
from renalplan.errors import ModelError, PredictionError, UsageError
from renalplan.files import content_hash, value_hash
from renalplan.geometry import Grid, Spacing
from renalplan.images import Volume, write_volume
from renalplan.imports import load_class, trusted
from renalplan.inference.decisions import Decisions, write_decisions
from renalplan.inference.fields import MeanField, ProbabilityField, SlabTaker
from renalplan.inference.job import Ledger, run_job
from renalplan.inference.label_names import name_labels
from renalplan.inference.options import InferenceOptions
from renalplan.inference.postprocessing.apply import apply_rules, as_decisions
from renalplan.inference.postprocessing.shared import shared_rules
from renalplan.inference.probabilities import (
    ProbabilityRecord,
    forget_probabilities,
    probability_writer,
)
from renalplan.inference.remote import run_remote
from renalplan.inference.report import Part, PredictionReport, ReportWriter, hold_output
from renalplan.inference.scans import ScanFiles, find_scans, require_apart
from renalplan.inference.segmenter import Segmenter
from renalplan.inference.uncertainty import FOLDER as UNCERTAINTY
from renalplan.inference.uncertainty import UncertaintyMaps, forget_uncertainty
from renalplan.inference.weights import member_weights
from renalplan.model_folder import WEIGHTS, ModelFolder
from renalplan.parallel import CaseExecutor, usable_cores

POSTPROCESSING_NAME = "postprocessing"  # beside the models' names in <case>.json
log = logging.getLogger(__name__)


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
        for member in members:
            if member.options.max_ram is not None and not member.forecasts:
                raise UsageError(
                    f"{member.model.path} is of a kind whose memory is not forecast; leave --max_ram out."
                )
        for member in members[1:]:
            if member.model.scheme != first.scheme:
                raise ModelError(
                    f"{member.model.path} and {first.path} have different labels; "
                    "only models of the same labels can be averaged."
                )
            if member.model.description.channels != first.description.channels:
                raise ModelError(f"{member.model.path} and {first.path} have different channels.")
        if any(member.options.max_ram is not None for member in members):
            return_large_blocks()
        self.model = first
        self.postprocessing = postprocessing
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

    def recipe(self) -> dict[str, Any]:
        """Plain values that `from_recipe` makes an equal predictor of, where the same files are seen."""
        return {
            "members": [
                {
                    "path": str(member.model.path.resolve()),
                    "folds": member.folds,
                    "options": member.options.as_json(),
                }
                for member in self.members
            ],
            "weights": self.weights,
            "postprocessing": self.postprocessing,
            "plugins": trusted(),
            "job": self.job(),
        }

    @classmethod
    def from_recipe(cls, recipe: dict[str, Any]) -> Predictor:
        """Open the models of a `recipe`. Raises: see `from_model`."""
        members = [
            cls.from_model(
                member["path"], member["folds"], InferenceOptions.from_json(member["options"])
            ).members[0]
            for member in recipe["members"]
        ]
        return cls(members, recipe["weights"], postprocessing=recipe["postprocessing"])

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
        return fields[0] if len(fields) == 1 else self._mean(fields), decisions

    def _mean(self, fields: list[ProbabilityField]) -> ProbabilityField:
        return MeanField(fields, self.weights, exclusive=not self.model.scheme.has_regions)

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

        Raises:
            PredictionError: the array has another number of axes or of channels, no voxels, or values
                that are not finite; or the spacing is not three positive numbers.
        """
        image = np.asarray(array, np.float32)
        if image.ndim == 3:
            image = image[None]
        if image.ndim != 4 or not image.size:
            raise PredictionError(
                f"an array of shape {image.shape} is no scan; give (z, y, x) or (channel, z, y, x)."
            )
        if len(spacing) != 3 or not all(0 < mm < np.inf for mm in spacing):
            raise PredictionError(f"the spacing {spacing} is not three lengths in mm, (z, y, x).")
        if not np.isfinite(image).all():
            raise PredictionError("the array holds values that are not finite; put numbers there.")
        z, y, x = image.shape[1:]
        grid = Grid(
            size=(x, y, z),
            spacing=(spacing[2], spacing[1], spacing[0]),
            origin=(0.0, 0.0, 0.0),
            direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        )
        volume = Volume(array=image, spacing=spacing, grid=grid)
        labels = self.field(volume).labels(self.model.scheme)
        return (
            apply_rules(labels, spacing, self.model.scheme, self.rules)[0] if self.rules else labels
        )

    def predict_files(
        self, scan: ScanFiles, out: Path, *, save_probabilities: bool = False
    ) -> None:
        """Predict one case and write its segmentation on exactly the scan's grid, by rename."""
        self.segment_case(scan, scan.read(), out, save_probabilities=save_probabilities)()

    def segment_case(
        self, scan: ScanFiles, volume: Volume, out: Path, *, save_probabilities: bool = False
    ) -> Callable[[], None]:
        """Compute one case's label map, and its probabilities if they are to be saved.

        Returns:
            A function that writes the segmentation on exactly the scan's grid, by rename. What the
            models' rules decided (`<case>.json`) is there before it. It may run in another thread.

        Raises:
            PredictionError: see `field`.
            OSError: probabilities cannot be written.
        """
        field, decisions = self.decided(volume)
        maps = self._uncertainty_maps(volume)
        with contextlib.ExitStack() as stack:
            takers: list[SlabTaker] = [] if maps is None else [maps]
            if save_probabilities:
                record = ProbabilityRecord(
                    models=tuple(str(member.model.path) for member in self.members),
                    ending=scan.ending,
                    labels=self.model.scheme,
                    grid=volume.grid,
                    postprocessing=self.rules,
                )
                writer = probability_writer(out, scan.id, field.heads, record)
                takers.append(stack.enter_context(writer))
            labels = field.labels(self.model.scheme, takers)
        if self.rules:
            labels, removed = apply_rules(labels, volume.spacing, self.model.scheme, self.rules)
            if removed:
                decisions[POSTPROCESSING_NAME] = as_decisions(removed)
        for found in decisions.values():
            for remark in found.remarks:
                log.info("%s: %s", scan.id, remark)
        grid, spacing = volume.grid, volume.spacing  # the scan itself need not stay any longer

        def write() -> None:
            write_decisions(out / f"{scan.id}.json", scan.id, decisions)
            if not save_probabilities:
                forget_probabilities(out, scan.id)
            if maps is None:
                forget_uncertainty(out / UNCERTAINTY, scan.id, scan.ending)
            else:
                maps.write(out / UNCERTAINTY, scan.id, scan.ending, grid, spacing)
            write_volume(out / f"{scan.id}{scan.ending}", labels, grid)

        return write

    def _uncertainty_maps(self, volume: Volume) -> UncertaintyMaps | None:
        options = self.members[0].options
        if not options.uncertainty:
            return None
        networks = sum(len(member.folds) for member in self.members)
        return UncertaintyMaps(
            volume.shape,
            self.model.scheme,
            options.scratch(),
            networks=networks,
            presence=self._presence,
        )

    @cached_property
    def _presence(self) -> dict[str, float]:
        """Structure -> how likely a scan holds it, the mean of the models that know."""
        known = [found for m in self.members if (found := m.model.presence(m.folds))]
        if not known:
            return {}
        return {name: sum(found[name] for found in known) / len(known) for name in known[0]}

    def predict_folder(
        self,
        scans: str | Path | Sequence[ScanFiles],
        out: str | Path,
        *,
        save_probabilities: bool = False,
        overwrite: bool = False,
        on_case: Callable[[str, str], None] | None = None,
        workers: int | None = None,
        parts: int = 1,
        part: int = 0,
        executor: CaseExecutor | None = None,
    ) -> PredictionReport:
        """Predict cases one after the other; what a killed run finished is kept.

        Args:
            scans: A folder of scans, one file, or cases from `find_scans`.
            out: Folder for segmentations, decisions (`<case>.json`) and `predict_report.json`.
            save_probabilities: Also write float16 probabilities.
            overwrite: Predict again what is already there.
            on_case: Called with (case, `started`, `done`, `kept` or the reason of failure), maybe by
                another thread.
            workers: Processes that read the next cases while one is computed, so many volumes more
                are in memory; 0 does everything here, one thing after the other. None takes 1 where
                there is a core for it. The results are the same.
            parts: Into how many parts the cases are divided.
            part: Which of them to predict, from 0.
            executor: Predicts instead of this process, e.g. from `renalplan.executors.open_executor`.

        Raises:
            UsageError: there is nothing to predict, `out` lies inside the input or holds predictions
                of another model and `overwrite` is not given, there is no such part, or another run
                fills the folder.
            ModelError: the model is damaged.
            OSError: a result cannot be written.
            WorkerError: writing makes no progress, or the executor is gone.
        """
        share = Part(index=part, count=parts)
        out = Path(out)
        if isinstance(scans, (str, Path)):
            require_apart(Path(scans), out)
            scans = list(find_scans(Path(scans), self.model.description.channels))
        chosen = share.of(scans) if parts > 1 else list(scans)
        if (room := self.members[0].options.room()) is not None:
            chosen = [scan.within(room) for scan in chosen]
        with hold_output(out, share):
            ledger = self._ledger(chosen, out, share, on_case, overwrite=overwrite)
            name_labels(out, self.model.description, scans, overwrite=overwrite, alone=parts == 1)
            if executor is not None:
                run_remote(
                    executor,
                    self.recipe(),
                    chosen,
                    out,
                    ledger,
                    save_probabilities=save_probabilities,
                )
                return ledger.report
            ahead = int(usable_cores() > 1) if workers is None else workers
            run_job(self, chosen, out, ledger, save_probabilities=save_probabilities, workers=ahead)
            return ledger.report

    def _ledger(
        self,
        chosen: Sequence[ScanFiles],
        out: Path,
        share: Part,
        on_case: Callable[[str, str], None] | None,
        *,
        overwrite: bool,
    ) -> Ledger:
        """What is known of the cases when the job begins. Raises: see `inputs_to_start_from`."""
        writer = ReportWriter(
            out=out,
            job=self.job(),
            models=[str(member.model.path) for member in self.members],
            folds=[member.folds for member in self.members],
            options=self.members[0].options.job(),
            part=share,
        )
        files = {scan.id: f"{scan.id}{scan.ending}" for scan in chosen}
        before = writer.inputs_to_start_from(files, overwrite=overwrite)
        also = (f"{UNCERTAINTY}/{{case}}.json",) if self.members[0].options.uncertainty else ()
        return Ledger(writer, PredictionReport(inputs=before), on_case, also=also)

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
            parts.append([weights, member.folds, list(options.job().values()), rules])
        applied = [rule.model_dump(mode="json") for rule in self.rules]
        return value_hash([parts, self.weights, *([applied] if applied else [])])
