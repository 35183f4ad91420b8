"""A trained fold's held-out scans: predicted as any scan is, and scored; also a rehearsal of that."""

from __future__ import annotations

import logging
import shutil
import time
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renalplan.dataset import Case, Dataset
from renalplan.errors import RenalplanError, TrainingError
from renalplan.files import TEMPORARY
from renalplan.images import read_grid
from renalplan.model_folder import WEIGHTS, ModelFolder

if TYPE_CHECKING:
    from renalplan.inference.report import PredictionReport
    from renalplan.trainers.task import TrainingTask
    from renalplan.trainers.trainer import Trainer

# Only until a case was rehearsed: what reading, resampling, writing and scoring took on a processor
# of 2023, and starting it all. What is too much is trained with.
SECONDS_PER_VOXEL = 2e-7
SECONDS_TO_START = 3.0
AFFORDABLE = 0.1  # of the budget, for a rehearsal
log = logging.getLogger(__name__)


class FoldValidation:
    """Validates one fold.

    Attributes:
        trainer: Whose.
        model: Its folder.
        dataset: With the scans and their labels.
        cases: Case id -> case.
    """

    def __init__(
        self, trainer: Trainer, model: ModelFolder, dataset: Dataset, cases: dict[str, Case]
    ) -> None:
        self.trainer = trainer
        self.model = model
        self.dataset = dataset
        self.cases = cases

    @property
    def task(self) -> TrainingTask:
        """What the trainer trains on."""
        return self.trainer.task

    @property
    def judged(self) -> list[str]:
        """Held-out cases that have labels."""
        return [case for case in self.task.fold.val if self.cases[case].label is not None]

    def run(self) -> dict[str, float]:
        """Predict and score the held-out cases; those a killed run predicted are kept.

        Returns:
            Structure -> mean Dice; empty if nothing is held out, or nothing with labels.

        Raises:
            TrainingError: a scan could not be predicted.
        """
        judged = self.judged
        if left_out := len(self.task.fold.val) - len(judged):
            log.info(
                "fold %s: %d of %d held-out cases have boxes and no labels, so they are not scored",
                self.task.fold_name, left_out, len(self.task.fold.val),
            )  # fmt: skip
        if not judged:
            return {}
        scores, _ = self._score(self.model, judged, self.task.fold_folder / "validation")
        if nowhere := [name for name, dice in scores.items() if dice == 0]:
            log.warning(
                "fold %s: %s overlaps with the reference in no held-out case (Dice 0), most often because training "
                "was too short: give it more epochs or a longer --budget, with --restart.",
                self.task.fold_name, " and ".join(nowhere),
            )  # fmt: skip
        return scores

    def _score(
        self, model: ModelFolder, judged: list[str], out: Path
    ) -> tuple[dict[str, float], PredictionReport]:
        from renalplan.evaluation.evaluate import evaluate_folders
        from renalplan.inference.options import InferenceOptions
        from renalplan.inference.predictor import Predictor
        from renalplan.inference.report import REPORT
        from renalplan.inference.scans import ScanFiles

        task = self.task
        predictor = Predictor.from_model(
            model,
            [task.fold_name],
            InferenceOptions(device=task.hardware.device),
            unfinished=True,
            postprocessing=False,
        )  # what the networks say is scored; renalplan_find_best chooses rules by these scores
        scans = [ScanFiles.of_case(case, self._channels_of(case)) for case in judged]
        report = predictor.predict_folder(
            scans,
            out,
            workers=min(1, task.hardware.workers),
            overwrite=not (out / REPORT).is_file(),  # nobody else writes into a fold's folder
        )
        if report.failed:
            case, reason = next(iter(report.failed.items()))
            raise TrainingError(f"validation of {case} failed: {reason}")
        labels = self.dataset.folder / "labelsTr"
        evaluation = evaluate_folders(out, labels, task.scheme, out, cases=set(judged))
        scores = evaluation.summary.structures.items()
        return {name: structure.scores["dice"].mean for name, structure in scores}, report

    def _channels_of(self, case: str) -> tuple[Path, ...]:
        images, wanted = self.cases[case].images, self.task.channels
        return images if wanted is None else tuple(images[number] for number in wanted)

    def foresee(self, window_s: float) -> float:
        """See `renalplan.trainers.budget.Validation`: windows of what is stored, and voxels of scans."""
        from renalplan.trainers.forecast import count_windows

        if not self.judged:
            return 0.0
        windows = sum(
            count_windows(stage, self.task.judged_items(stage)) for stage in self.task.stages
        )
        voxels = sum(self._voxels(case) for case in self.judged)
        return SECONDS_TO_START + windows * window_s + voxels * SECONDS_PER_VOXEL

    def rehearse(self, phase: str, network: Any) -> float | None:
        """See `renalplan.trainers.budget.Validation`: with the smallest cases, in a copy of the model."""
        voxels = {case: self._voxels(case) for case in self.judged}
        smallest = sorted(voxels, key=lambda case: voxels[case])[: 1 + (len(voxels) > 3)]
        if not smallest:
            return None
        share = sum(voxels[case] for case in smallest) / sum(voxels.values())
        budget = self.task.budget
        if budget is None or share * budget.validation_s > AFFORDABLE * budget.seconds:
            return None
        folder = self.task.fold_folder / f"{TEMPORARY}rehearsal"
        try:
            copy = self._copy_model(folder, phase, network)
            begin = time.monotonic()
            _, report = self._score(copy, smallest, folder / "out")
            took = time.monotonic() - begin
        except (RenalplanError, OSError) as problem:
            log.info("validation could not be rehearsed: %s", problem)
            return None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if len(smallest) == 1:
            return took / share
        # the first one also waited for what is done only once; the second did not
        alone = report.done[smallest[1]] / voxels[smallest[1]] * sum(voxels.values())
        once = max(
            0.0, report.done[smallest[0]] - alone * voxels[smallest[0]] / sum(voxels.values())
        )
        scoring = max(0.0, took - sum(report.done.values())) / share
        return once + alone + scoring

    def _copy_model(self, folder: Path, phase: str, network: Any) -> ModelFolder:
        """The model as it would be now; what is not trained yet is as it is built."""
        from renalplan.trainers.phase import NetworkPhase, save_weights

        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("plan.json", "dataset.json", "trainer.json"):
            shutil.copyfile(self.model.path / name, folder / name)
        copy = ModelFolder.open(folder)
        fold = copy.fold_folder(self.task.fold_name)
        for other in self.trainer.phases():
            if not isinstance(other, NetworkPhase):
                continue
            (fold / other.name).mkdir(parents=True)
            trained = self.task.fold_folder / other.name / WEIGHTS
            if other.name == phase:
                save_weights(fold / other.name / WEIGHTS, network)
            elif trained.is_file():
                shutil.copyfile(trained, fold / other.name / WEIGHTS)
            else:
                save_weights(fold / other.name / WEIGHTS, other.build())
        return copy

    def _voxels(self, case: str) -> int:
        return prod(read_grid(self.cases[case].images[0]).size)
