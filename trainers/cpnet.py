"""CPNet: cortex and medulla from four labelled images, two contrast phases and unlabelled scans.

Sources:
    [CPNet] Cycle Prototype Network, sections 2 and 3.
    [PANet] K. Wang et al., PANet: few-shot image semantic segmentation with prototype alignment,
        ICCV 2019.
"""

from __future__ import annotations

import logging
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from renalplan.errors import UsageError
from renalplan.normalisation import hounsfield_rescaling
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.bayes import Compartments
from renalplan.trainers.cycle import Reverse
from renalplan.trainers.episodic import EpisodicStage, PrototypePhase
from renalplan.trainers.forecast import count_windows
from renalplan.trainers.losses import LossSettings
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.pseudo_labels import PhasePrior, make_pseudo_labels
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.staged import StagedTrainer
from renalplan.trainers.supervised import Recipe, SupervisedSettings, SupervisedStage
from renalplan.trainers.unlabelled import regions_phase

WIDTHS = (16, 32, 64, 128)
FEATURES = 32
SEED_STRIDE = 1_000_003  # every round of episodes draws others
log = logging.getLogger(__name__)


class CPNetSettings(SupervisedSettings):
    """The paper's training [CPNet, section 3]; where it is silent, docs/methods says what we do."""

    channels: tuple[int, ...] | None = Field(
        default=(0,),
        min_length=1,
        description="image channels that the networks see: the CTA alone, as in the paper; new "
        "scans then need it alone",
    )
    supervised_epochs: int = Field(
        default=10, ge=1, description="rounds with labelled queries, before the pseudo labels"
    )
    epochs: int = Field(default=90, ge=1, description="rounds with pseudo-labelled queries")
    iterations: int = Field(default=200, ge=1, description="training steps (episodes) a round")
    batch_size: int | None = Field(default=1, ge=1, description="query patches an episode")
    learning_rate: float = Field(default=1e-3, gt=0, description="of sgd")
    schedule: Literal["poly", "time", "constant"] = Field(
        default="constant", description="learning rate: the paper names no decay"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=False, description="sgd looks ahead along its momentum")
    weight_decay: float = Field(default=5e-4, ge=0, description="PANet's")
    foreground_share: float = Field(
        default=1.0, ge=0, le=1, description="share of query patches that must hold foreground"
    )
    loss: LossSettings = LossSettings(name="ce")
    fdfe: bool = Field(
        default=True, description="false leaves out the fine decoding: features of the encoder"
    )
    reverse: Reverse = Field(
        default="soft",
        description="what the query gives back in the reverse process: its probabilities, or its "
        "decisions as in PANet",
    )
    theta: float = Field(
        default=0.1, ge=0, description="weight of a query with pseudo labels; labelled ones have 1"
    )
    bwsm: Literal["auto", "true", "false"] = Field(
        default="auto",
        description="pseudo labels of unlabelled scans by Bayes' rule; auto if there are imagesUn, "
        "a second contrast phase, and labels named cortex and medulla",
    )
    omega: float = Field(
        default=0.05,
        ge=0,
        description="how much more likely than chance the class is that the contrast phases name; "
        "at most 1 - 1/classes",
    )
    rounds: int = Field(
        default=3, ge=1, description="how often the pseudo labels are made, evenly over epochs"
    )
    arterial: int = Field(default=0, ge=0, description="image channel with the CTA")
    excretory: int = Field(default=1, ge=0, description="image channel with the CTU")
    draws: int = Field(
        default=10, ge=1, description="sets of support patches that prediction averages over"
    )
    earlier: Recipe = Recipe()


class CPNet(StagedTrainer):
    """The plan's last stage by prototypes, earlier ones by the plan's own U-Net.

    Phases: `supervised`; then as often as `rounds` says `prototypes_n` (those of the labelled
    cases), `pseudo_labels_n` (of the unlabelled scans) and `episodes_n` (queries are these); at
    last the stage's own, which keeps the prototypes that predict.
    """

    Settings: ClassVar[type[TrainerSettings]] = CPNetSettings
    uses_unlabelled = True
    divisor = (8, 8, 8)
    settings: CPNetSettings

    @property
    def obstacle(self) -> str | None:
        """Why there can be no pseudo labels, None if there can; the same for all folds."""
        channels = self.task.stored_channels or self.task.plan.channels
        phases = (self.settings.arterial, self.settings.excretory)
        if missing := [number for number in phases if number >= len(channels)]:
            return f"the images have no channel {missing[0]}, a second contrast phase (CTU)"
        if other := [channels[n].name for n in phases if not hounsfield_rescaling(channels[n])]:
            return f"the channel {other[0]} is not in HU, so phases cannot be compared"
        if phases[0] == phases[1]:
            return "arterial and excretory are the same channel"
        if self.stages[-1].previous_as_channels:
            return "the plan is a cascade, whose first stage has not seen the unlabelled scans"
        names = set(self.task.scheme.foreground)
        if lacking := [name for name in ("cortex", "medulla") if name not in names]:
            return f"the dataset has no label named {lacking[0]}"
        if not (self.task.unlabelled or self.task.withheld):
            return "there are no unlabelled images (imagesUn)"
        return None

    @cached_property
    def with_pseudo_labels(self) -> bool:
        """Whether unlabelled scans are learned from."""
        return self.settings.bwsm != "false" and self.obstacle is None

    def check(self) -> None:
        """See `Trainer.check`.

        Raises:
            UsageError: label regions; pseudo labels asked for that cannot be made; omega.
        """
        super().check()
        scheme = self.task.scheme
        if scheme.has_regions:
            raise UsageError(
                f"{type(self).__name__} compares voxels with one prototype a label; this dataset's "
                "labels are overlapping regions. Give every voxel one label in dataset.json."
            )
        if self.settings.bwsm == "true" and self.obstacle is not None:
            raise UsageError(f"--set bwsm=true: {self.obstacle}.")
        if self.settings.loss.name == "dice_ce":
            raise UsageError(
                f"{type(self).__name__} compares voxel by voxel: --set loss.name=ce, the paper's, "
                "or another than dice_ce."
            )
        if self.settings.omega > 1 - 1 / scheme.heads:
            raise UsageError(
                f"--set omega={self.settings.omega:g}: with {scheme.heads} classes it is at most "
                f"1 - 1/{scheme.heads}."
            )
        if self.settings.rounds > self.settings.epochs:
            raise UsageError(
                f"--set rounds={self.settings.rounds}: a round of pseudo labels needs an epoch, "
                f"there are {self.settings.epochs}."
            )

    def run(self) -> None:
        """See `Trainer.run`."""
        last = self.stages[-1]
        self._episodes(last, "supervised", 1).training_batches(self.task)  # all structures there?
        if self.settings.bwsm == "auto" and self.obstacle is not None:
            log.warning("%s: training without pseudo labels (BWSM)", self.obstacle)
        super().run()

    def learn(self, stage: StagePlan) -> list[Phase]:
        """See `StagedTrainer.learn`."""
        if not self.is_last(stage):
            network = self.network_of(stage)
            return [SupervisedStage(stage.name, stage, network, self.settings.earlier, self.seed)]
        settings = self.settings
        if not self.with_pseudo_labels:
            epochs = settings.supervised_epochs + settings.epochs
            found: list[Phase] = [self._episodes(stage, "supervised", epochs)]
            return [*found, self._prototypes(stage, stage.name, "supervised")]
        found = [self._episodes(stage, "supervised", settings.supervised_epochs)]
        if stage.region == "kidney" and self.task.unlabelled:
            before = self.task.plan.stage(stage.previous or "")
            found.append(regions_phase(stage, self.network_of(before)))
        start = "supervised"
        for number in range(1, settings.rounds + 1):
            found += self._round(stage, number, start)
            start = found[-1].name
        return [*found, self._prototypes(stage, stage.name, start)]

    def _round(self, stage: StagePlan, number: int, start: str) -> list[Phase]:
        """Prototypes, pseudo labels by them, episodes that learn from those."""
        settings = self.settings
        prototypes = self._prototypes(stage, f"prototypes_{number}", start)
        pseudo = f"pseudo_labels_{number}"
        more = 1 if number <= settings.epochs % settings.rounds else 0
        episodes = self._episodes(
            stage,
            f"episodes_{number}",
            settings.epochs // settings.rounds + more,
            start=start,
            pseudo_labels=pseudo if self.task.unlabelled else None,
            seed=self.seed + number * SEED_STRIDE,
        )
        prior = self._prior()
        labels = ComputePhase(
            pseudo,
            lambda task, folder: make_pseudo_labels(
                task, stage, prototypes.network, prototypes.name, prior, folder
            ),
            lambda task: count_windows(stage, task.unlabelled_items(stage)),
        )
        return [prototypes, labels, episodes]

    def _prior(self) -> PhasePrior:
        names = self.task.scheme.names
        return PhasePrior(
            arterial=self.settings.arterial,
            excretory=self.settings.excretory,
            classes=Compartments(cortex=names.index("cortex"), medulla=names.index("medulla")),
            omega=self.settings.omega,
        )

    def _episodes(
        self,
        stage: StagePlan,
        name: str,
        epochs: int,
        *,
        start: str | None = None,
        pseudo_labels: str | None = None,
        seed: int | None = None,
    ) -> EpisodicStage:
        return EpisodicStage(
            name,
            stage,
            NetworkSpec(factory="renalplan.networks.fdfe:FDFE", arguments=self._extractor(stage)),
            self.settings.model_copy(update={"epochs": epochs}),
            self.seed if seed is None else seed,
            start=start,
            pseudo_labels=pseudo_labels,
            theta=1.0 if pseudo_labels is None else self.settings.theta,
            reverse=self.settings.reverse,
        )

    def _prototypes(self, stage: StagePlan, name: str, source: str) -> PrototypePhase:
        arguments = self._extractor(stage) | {
            "classes": self.task.scheme_of(stage).heads,
            "draws": self.settings.draws,
        }
        network = NetworkSpec(
            factory="renalplan.networks.prototypes:PrototypeNetwork", arguments=arguments
        )
        return PrototypePhase(name, stage, network, source, self.settings.draws, self.seed)

    def _extractor(self, stage: StagePlan) -> dict[str, Any]:
        return {
            "in_channels": self.network_of(stage).arguments["in_channels"],
            "widths": list(WIDTHS),
            "features": FEATURES,
            "decoding": self.settings.fdfe,
        }
