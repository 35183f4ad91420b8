"""What one training run is about: plan, stores, fold, folders, hardware. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from renalplan.dataset import DatasetDescription
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.plan import Plan, StagePlan
from renalplan.splits import Fold
from renalplan.store import ItemArrays, open_items


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What to run on.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        workers: Processes that prepare batches; 0 prepares them in this one.
        progress: Show a progress bar.
    """

    device: str = "auto"
    workers: int = 0
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One fold of one trainer on one dataset.

    Attributes:
        plan: The plan; `configuration` says which of its stages.
        description: dataset.json.
        fold: Case ids trained on and held out; nothing held out when all cases are trained on.
        fold_name: `0` … or `all`.
        stores: The plan's folder with one store a stage.
        model: The model folder being made.
        hardware: What to run on.
    """

    plan: Plan
    configuration: str
    description: DatasetDescription
    fold: Fold
    fold_name: str
    stores: Path
    model: ModelFolder
    hardware: Hardware = field(default_factory=Hardware)

    @property
    def scheme(self) -> LabelScheme:
        """What label values mean."""
        return self.description.scheme()

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """The stages to train, in order."""
        return self.plan.run(self.configuration)

    @property
    def fold_folder(self) -> Path:
        """Where this fold's phases live."""
        return self.model.fold_folder(self.fold_name)

    def scheme_of(self, stage: StagePlan) -> LabelScheme:
        """What a stage's network learns."""
        return self.scheme.as_foreground() if stage.target == "foreground" else self.scheme

    def training_items(self, stage: StagePlan) -> tuple[ItemArrays, ...]:
        """Stored arrays of the training cases, and of no other."""
        return tuple(open_items(self.stores / stage.name, self.fold.train))

    def held_out_items(self, stage: StagePlan) -> tuple[ItemArrays, ...]:
        """Stored arrays of the held-out cases: to look at, never to learn from."""
        return tuple(open_items(self.stores / stage.name, self.fold.val))
