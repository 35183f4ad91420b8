"""What a trainer is: settings, a sequence of phases, and the segmenter that predicts with them."""

from __future__ import annotations

import logging
import platform
import time
from abc import ABC, abstractmethod
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from renalplan.errors import UsageError
from renalplan.files import remove_leftovers, write_json
from renalplan.model_folder import FINISHED, Finished, ModelFolder, SegmenterSpec, TrainerRecord
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers import ranks
from renalplan.trainers.phase import NetworkPhase, Phase
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.task import TrainingTask

log = logging.getLogger(__name__)


class Trainer(ABC):
    """A method: override `phases`, and say in `Settings` what can be set.

    Attributes:
        Settings: The hyperparameters' schema, with the paper's values as defaults.
        settings: Their values in this run.
        task: What to train on.
        uses_unlabelled: Whether imagesUn must be preprocessed before it can run.
        uses_boxes: Whether it learns from boxes; any other refuses cases that have no labels.
    """

    Settings: ClassVar[type[TrainerSettings]] = TrainerSettings
    uses_unlabelled: ClassVar[bool] = False
    uses_boxes: ClassVar[bool] = False

    def __init__(self, task: TrainingTask, settings: TrainerSettings | None = None) -> None:
        self.settings = settings or self.Settings()
        self.task = task.with_share(self.settings.label_share, self.settings.seed).with_channels(
            self.settings.channels
        )

    def check(self) -> None:
        """Refuse what cannot work, before anything is written.

        Raises:
            UsageError: plan, data and settings do not go together.
        """
        return None

    @abstractmethod
    def phases(self) -> list[Phase]:
        """The steps, in order; later ones see what earlier ones left in the fold's folder."""

    def segmenter(self) -> SegmenterSpec:
        """Who predicts: by default the plan's stages, each with the phase of its own name."""
        names = {phase.name for phase in self.phases()}
        stages = {stage.name: stage.name for stage in self.task.stages if stage.name in names}
        return SegmenterSpec(arguments={"stages": stages})

    def network_of(self, stage: StagePlan) -> NetworkSpec:
        """The plan's network for a stage, completed with channels and heads."""
        channels = len(self.task.plan.channels)
        if stage.previous_as_channels:
            channels += len(self.task.scheme.foreground)
        arguments = {
            **stage.network.arguments,
            "in_channels": channels,
            "heads": self.task.scheme_of(stage).heads,
        }
        return NetworkSpec(factory=stage.network.factory, arguments=arguments)

    def record(self, name: str) -> TrainerRecord:
        """What trainer.json says about this trainer."""
        networks = {p.name: p.network for p in self.phases() if isinstance(p, NetworkPhase)}
        return TrainerRecord(
            trainer=name,
            configuration=self.task.configuration,
            settings=self.settings.model_dump(mode="json"),
            networks=networks,
            segmenter=self.segmenter(),
            software={
                "python": platform.python_version(),
                **{package: version(package) for package in ("renalplan", "torch", "numpy")},
            },
        )

    def run(self) -> None:
        """Run every phase that has not run to its end yet, then mark the fold as finished.

        Processes that train together train each network together; the first does the rest.
        """
        start = time.monotonic()
        folder = self.task.fold_folder
        folder.mkdir(parents=True, exist_ok=True)
        ranks.lead_alone(lambda: remove_leftovers(folder))
        phases = self.phases()
        budget = self.task.budget
        most = "" if budget is None else "at most "
        sizes = ", ".join(phase.size for phase in phases)
        log.info("fold %s: %s%s", self.task.fold_name, most, sizes)
        if budget is not None:
            budget.expect(phases, self.task)
        for phase in phases:
            if ranks.agreed(partial(phase.is_done, self.task)):
                log.info("fold %s: phase %s is done already", self.task.fold_name, phase.name)
                continue
            ranks.lead_alone(partial(remove_leftovers, phase.folder(self.task)))
            if phase.together:
                phase.run(self.task)
            else:
                ranks.lead_alone(partial(phase.run, self.task))
            if budget is not None:
                budget.note()
        if ranks.leads() and not (folder / FINISHED).is_file():
            finished = Finished(
                phases=tuple(phase.name for phase in phases),
                seconds=time.monotonic() - start,
                training_cases=len(self.task.fold.train),
                cases_holding=self.task.cases_holding(),
            )
            write_json(folder / FINISHED, finished)


def open_or_create(path: Path, trainer: Trainer, name: str, *, anew: bool = False) -> ModelFolder:
    """The model folder of this trainer, made if it is new (or to be described `anew`).

    Raises:
        UsageError: the folder holds a model of another plan, configuration or other settings.
    """
    record = trainer.record(name)
    if anew or not (path / "trainer.json").is_file():
        return ModelFolder.create(path, trainer.task.plan, trainer.task.description, record)
    model = ModelFolder.open(path)
    advice = (
        "begin anew with --restart (and FOLD cv, if more folds were trained), or give the new model "
        "another name with --name."
    )
    if model.plan != trainer.task.plan:
        raise UsageError(f"{path} was trained with another plan; {advice}")
    old, new = model.record, record
    if old.trainer != new.trainer:
        raise UsageError(f"{path} was trained by {old.trainer}, not by {new.trainer}; {advice}")
    if (old.networks, old.segmenter, old.settings) != (new.networks, new.segmenter, new.settings):
        before, now = _flat(old.settings), _flat(new.settings)
        changed = [
            f"{key} was {before.get(key)}, is {now.get(key)}"
            for key in {**before, **now}
            if before.get(key) != now.get(key)
        ]
        if not changed:
            raise UsageError(
                f"{path} was trained with these settings but other networks: images were added to "
                f"imagesUn or taken away, or renalplan has changed. Undo that, {advice}"
            )
        raise UsageError(
            f"{path} was trained with other settings ({'; '.join(changed)}); repeat the same --set to "
            f"go on with it, {advice}"
        )
    return model


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as trainer.json has them -> dotted name -> value."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
