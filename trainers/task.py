"""What one training run is about: plan, stores, fold, folders, hardware. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from renalplan.dataset import DatasetDescription
from renalplan.errors import UsageError
from renalplan.geometry import Box, Spacing
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.plan import ChannelPlan, Plan, StagePlan
from renalplan.splits import Fold, training_share
from renalplan.store import ItemArrays, open_items, require_case

if TYPE_CHECKING:
    from renalplan.trainers.budget import FoldBudget


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What to run on.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto is float32 on the CPU and bfloat16 (or float16) autocast on a GPU.
        workers: Processes that prepare batches; 0 prepares them in this one.
        progress: Show a progress bar.
        accumulate: In how many parts, one after the other, a process works on its share of a batch;
            None is one, and more when memory runs out.
        deterministic: The same command gives the same weights twice, bit by bit: always so on a
            CPU, on a GPU as far as PyTorch can (slower).
    """

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    workers: int = 0
    progress: bool = True
    accumulate: int | None = None
    deterministic: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """One fold of one trainer on one dataset.

    Attributes:
        plan: The plan; `configuration` says which of its stages.
        description: dataset.json.
        fold: Case ids trained on and held out; nothing held out when all cases are trained on.
        fold_name: `0` … or `all`.
        unlabelled: Case ids of imagesUn: no fold's own, to learn images from.
        withheld: Those of patients that this fold holds out: there, but not to be read.
        channels: Which of the stored channels the networks see, None for all; `plan` and
            `description` tell of these alone.
        stored_channels: All that are stored, if they are not the plan's.
        boxes: Case -> its boxes in boxesTr.csv, voxels of the canonical (z, y, x) scan; empty if
            the dataset has no such file.
        boxed: Cases with boxes instead of labels; what the stores hold as their labels are the boxes.
        stores: The plan's folder with one store a stage.
        model: The model folder being made.
        hardware: What to run on.
        budget: The time that the fold has; None trains as many epochs as the settings say.
    """

    plan: Plan
    configuration: str
    description: DatasetDescription
    fold: Fold
    fold_name: str
    stores: Path
    model: ModelFolder
    hardware: Hardware = field(default_factory=Hardware)
    unlabelled: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()
    channels: tuple[int, ...] | None = None
    stored_channels: tuple[ChannelPlan, ...] = ()
    boxes: dict[str, tuple[Box, ...]] = field(default_factory=dict)
    boxed: frozenset[str] = frozenset()
    budget: FoldBudget | None = field(default=None, compare=False)

    @property
    def scheme(self) -> LabelScheme:
        """What label values mean."""
        return self.description.scheme()

    @property
    def stages(self) -> tuple[StagePlan, ...]:
        """The stages to train, in order."""
        return self.plan.run(self.configuration)

    def with_share(self, share: float, seed: int) -> TrainingTask:
        """The same task with only a share of the training patients, see `training_share`."""
        if share == 1:
            return self
        folder = self.stores / self.stages[0].name
        patients = {case: require_case(folder, case).patient for case in self.fold.train}
        return replace(self, fold=training_share(self.fold, share, patients, seed))

    def with_channels(self, wanted: tuple[int, ...] | None) -> TrainingTask:
        """The same task whose networks see only some channels of the images.

        Raises:
            UsageError: there is no such channel.
        """
        names = self.description.channels
        if wanted is None or wanted == tuple(range(len(names))):
            return self
        if not set(wanted) <= set(range(len(names))):
            known = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
            asked = ",".join(map(str, wanted))
            raise UsageError(f"--set channels={asked}: the channels of this dataset are {known}.")
        plan = self.plan.model_copy(
            update={"channels": tuple(self.plan.channels[number] for number in wanted)}
        )
        chosen = {str(place): names[number] for place, number in enumerate(wanted)}
        return replace(
            self,
            plan=plan,
            description=self.description.model_copy(update={"channel_names": chosen}),
            channels=wanted,
            stored_channels=self.plan.channels,
        )

    @property
    def fold_folder(self) -> Path:
        """Where this fold's phases live."""
        return self.model.fold_folder(self.fold_name)

    def scheme_of(self, stage: StagePlan) -> LabelScheme:
        """What a stage's network learns."""
        return self.scheme.as_foreground() if stage.target == "foreground" else self.scheme

    def training_items(self, stage: StagePlan) -> tuple[ItemArrays, ...]:
        """Stored arrays of the training cases, and of no other."""
        return self._items(stage, self.fold.train)

    def spacing_of(self, stage: StagePlan, item: ItemArrays) -> Spacing:
        """mm of a stored item along the plan's axes.

        Raises:
            TrainingError: its case is not in the store.
        """
        return require_case(self.stores / stage.name, item.case).spacing

    def stage_spacing(self, stage: StagePlan) -> Spacing:
        """mm along the plan's axes; where a stage keeps each scan's own, the first item's."""
        z, y, x = stage.spacing
        if z is None or y is None or x is None:
            return self.spacing_of(stage, self.training_items(stage)[0])
        return z, y, x

    def cases_holding(self) -> dict[str, int]:
        """Structure -> how many of the training cases hold it."""
        found: dict[str, set[str]] = {name: set() for name in self.scheme.foreground}
        for item in self.training_items(self.stages[-1]):
            for name, voxels in item.item.structures.items():
                if voxels and name in found:
                    found[name].add(item.case)
        return {name: len(cases) for name, cases in found.items()}

    def unlabelled_items(self, stage: StagePlan) -> tuple[ItemArrays, ...]:
        """Stored arrays of the cases without labels; whole scans also where a stage sees regions."""
        return self._items(stage, self.unlabelled)

    def held_out_items(self, stage: StagePlan) -> tuple[ItemArrays, ...]:
        """Stored arrays of the held-out cases: to look at, never to learn from."""
        return self._items(stage, self.fold.val)

    def judged_items(self, stage: StagePlan) -> tuple[ItemArrays, ...]:
        """Those of them that have labels to compare with."""
        return tuple(item for item in self.held_out_items(stage) if item.case not in self.boxed)

    def _items(self, stage: StagePlan, cases: tuple[str, ...]) -> tuple[ItemArrays, ...]:
        items = open_items(self.stores / stage.name, cases)
        return tuple(item.with_channels(self.channels) for item in items)
