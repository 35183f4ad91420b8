"""A trainer that learns the plan's stages in order: what most methods are built on."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import ClassVar

from pydantic import ValidationError

from renalplan.errors import UsageError
from renalplan.model_folder import SegmenterSpec
from renalplan.networks.divisor import require_multiples
from renalplan.plan import StagePlan
from renalplan.trainers.cascade import predict_previous
from renalplan.trainers.forecast import count_windows
from renalplan.trainers.phase import ComputePhase, Phase
from renalplan.trainers.settings import TrainerSettings
from renalplan.trainers.supervised import SupervisedSettings
from renalplan.trainers.trainer import Trainer


class StagedTrainer(Trainer):
    """A phase (or several) a stage; before a cascade's second stage, the first one's predictions.

    A stage's own network is trained in the phase of its name: that is what predicts it.

    Attributes:
        divisor: What the last stage's patch must be a multiple of; None if the plan's own network
            is trained there, for which the plan was checked.
    """

    Settings: ClassVar[type[TrainerSettings]] = SupervisedSettings
    divisor: ClassVar[tuple[int, int, int] | None] = None
    settings: SupervisedSettings

    @property
    def seed(self) -> int:
        """What every phase's draws come from."""
        return self.settings.seed

    @abstractmethod
    def learn(self, stage: StagePlan) -> list[Phase]:
        """How one stage is learnt; the phase of the stage's name leaves its network."""

    @cached_property
    def stages(self) -> tuple[StagePlan, ...]:
        """The plan's stages to train, the last one with the patch size asked for.

        Raises:
            UsageError: the plan's network cannot take that patch size.
        """
        *earlier, last = self.task.stages
        if self.settings.patch_size is not None:
            values = last.model_dump() | {"patch_size": self.settings.patch_size}
            if self.divisor is not None:
                values["network"] = {**values["network"], "arguments": {}}  # it is not built
            try:
                last = StagePlan.model_validate(values)
            except ValidationError as problem:
                reason = problem.errors()[0]["msg"].removeprefix("Value error, ")
                raise UsageError(f"--set patch_size: {reason}.") from None
        return (*earlier, last)

    def is_last(self, stage: StagePlan) -> bool:
        """Whether a stage gives the answer: the one a method is about."""
        return stage.name == self.stages[-1].name

    def check(self) -> None:
        """See `Trainer.check`.

        Raises:
            UsageError: the network cannot take the last stage's patch; the nearest are named.
        """
        if self.divisor is None:
            _ = self.stages
            return
        last = self.stages[-1]
        try:
            require_multiples(last.patch_size, self.divisor, f"the patch of stage {last.name}")
        except ValueError as problem:
            sizes = zip(last.patch_size, self.divisor, strict=True)
            near = ",".join(str(max(d, round(n / d) * d)) for n, d in sizes)
            raise UsageError(
                f"{type(self).__name__}: {problem}; for example --set patch_size={near}."
            ) from None

    def phases(self) -> list[Phase]:
        """See `Trainer.phases`."""
        found: list[Phase] = []
        for stage in self.stages:
            if stage.previous_as_channels:
                found.append(self._predictions_for(stage))
            found += self.learn(stage)
        return found

    def segmenter(self) -> SegmenterSpec:
        """See `Trainer.segmenter`; a patch that is not the plan's is passed on."""
        last = self.stages[-1]
        arguments = dict(super().segmenter().arguments)
        if last.patch_size != self.task.stages[-1].patch_size:
            arguments["patch_sizes"] = {last.name: list(last.patch_size)}
        return SegmenterSpec(arguments=arguments)

    def _predictions_for(self, stage: StagePlan) -> ComputePhase:
        previous = self.task.plan.stage(stage.previous or "")
        network = self.network_of(previous)
        return ComputePhase(
            f"before_{stage.name}",
            lambda task, _: predict_previous(task, stage, network),
            lambda task: count_windows(
                previous, (*task.training_items(previous), *task.held_out_items(previous))
            ),
        )
