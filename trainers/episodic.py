"""The phases of prototypical trainers: learning features in episodes, and keeping prototypes.

Sources:
    [CPNet] Cycle Prototype Network, sections 2.1 and 3.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from renalplan.geometry import Shape, Spacing, margin_voxels
from renalplan.inference.options import choose_device
from renalplan.model_folder import WEIGHTS
from renalplan.networks.prototypes import PrototypeNetwork
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.trainers.augmentation import AugmentationSettings
from renalplan.trainers.cycle import CycleLoss, Reverse
from renalplan.trainers.episodes import EpisodeSource, SupportSource
from renalplan.trainers.losses import build_voxel_loss
from renalplan.trainers.phase import NetworkPhase, save_weights
from renalplan.trainers.relabelled import relabelled
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.supervised import VALIDATION_SEED, Recipe, SupervisedStage
from renalplan.trainers.task import TrainingTask

AROUND_MM = 15.0  # so far around a kidney lies the background that its prototype is pooled from


class EpisodicStage(SupervisedStage):
    """Trains a feature extractor in episodes of support and query patches [CPNet, section 2.1].

    Attributes:
        start: The phase whose weights it begins with; None begins anew.
        pseudo_labels: The phase that labelled the unlabelled scans, which are then the queries;
            None takes queries from the labelled cases.
        theta: Weight of the query's loss.
        reverse: See `CycleLoss`.
    """

    divides = True
    whole = ("support_image", "support_labels")  # each part of the queries is compared with all

    def __init__(
        self,
        name: str,
        stage: StagePlan,
        network: NetworkSpec,
        settings: Recipe,
        seed: int,
        *,
        start: str | None = None,
        pseudo_labels: str | None = None,
        theta: float = 1.0,
        reverse: Reverse = "soft",
    ) -> None:
        super().__init__(name, stage, network, settings, seed)
        self.start = start
        self.pseudo_labels = pseudo_labels
        self.theta = theta
        self.reverse = reverse

    def prepare(self, task: TrainingTask) -> None:
        """See `SupervisedStage.prepare`."""
        self.fold_folder = task.fold_folder
        scheme = task.scheme_of(self.stage)
        spacing = task.stage_spacing(self.stage)
        self.cycle = CycleLoss(
            scheme,
            around(spacing),
            theta=self.theta,
            reverse=self.reverse,
            loss=build_voxel_loss(self.settings.loss),
        )

    def initialise(self, network: nn.Module) -> None:
        """See `TrainedNetwork.initialise`."""
        if self.start is not None:
            network.load_state_dict(_weights(self.fold_folder / self.start))

    def training_batches(self, task: TrainingTask) -> BatchSource:
        """See `TrainedNetwork.training_batches`; queries are unlabelled scans where there are some."""
        labelled = task.training_items(self.stage)
        queried = labelled
        if self.pseudo_labels is not None and task.unlabelled:
            folder = task.fold_folder / self.pseudo_labels
            queried = tuple(relabelled(i, folder) for i in task.unlabelled_items(self.stage))
        structures = tuple(task.scheme_of(self.stage).foreground)
        return EpisodeSource(
            SupportSource(self.patches(task, labelled), structures), self.patches(task, queried)
        )

    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """See `TrainedNetwork.loss`."""
        self.cycle.to(batch["image"].device)
        loss: Tensor = self.cycle(network, batch)
        return loss

    def held_out_batches(self, task: TrainingTask) -> BatchSource:
        """See `SupervisedStage.held_out_batches`; supports are training cases, as in prediction."""
        supports = self.plain_patches(task, task.training_items(self.stage))
        structures = tuple(task.scheme_of(self.stage).foreground)
        queries = self.plain_patches(task, task.held_out_items(self.stage))
        return EpisodeSource(SupportSource(supports, structures), queries)

    def predict(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """See `SupervisedStage.predict`."""
        self.cycle.to(batch["image"].device)
        return self.cycle.predict(network, batch)


class PrototypePhase(NetworkPhase):
    """Pools the prototypes of the labelled cases and keeps them with the features' network.

    A model needs no scan but the new one then. Each draw takes a support patch a structure, as an
    episode does.

    Attributes:
        stage: The plan's stage.
        source: The phase that trained the feature extractor.
        draws: How many sets of prototypes, whose logits are averaged.
        seed: Decides which patches.
    """

    def __init__(
        self, name: str, stage: StagePlan, network: NetworkSpec, source: str, draws: int, seed: int
    ) -> None:
        super().__init__(name, network)
        self.stage = stage
        self.source = source
        self.draws = draws
        self.seed = seed

    @property
    def size(self) -> str:
        """See `Phase.size`."""
        return f"{self.name} {self.draws} draws"

    def windows(self, task: TrainingTask) -> int:
        """See `Phase.windows`: a support patch a structure."""
        return self.draws * len(task.scheme_of(self.stage).foreground)

    def run(self, task: TrainingTask) -> None:
        """See `Phase.run`."""
        network = self.build()
        assert isinstance(network, PrototypeNetwork), "the trainer names this network"
        network.extractor.load_state_dict(_weights(task.fold_folder / self.source))
        device = choose_device(task.hardware.device)
        network.eval().to(device)
        network.prototypes.copy_(self.pool(network.extractor, task, device))
        save_weights(self.folder(task) / WEIGHTS, network)

    @torch.no_grad()
    def pool(self, extractor: nn.Module, task: TrainingTask, device: torch.device) -> Tensor:
        """(draws, classes, F) prototypes of the fold's training cases."""
        scheme = task.scheme_of(self.stage)
        cycle = CycleLoss(scheme, around(task.stage_spacing(self.stage))).to(device)
        recipe = Recipe(batch_size=1, augmentation=AugmentationSettings(enabled=False))
        stage = SupervisedStage(self.name, self.stage, self.network, recipe, VALIDATION_SEED)
        patches = stage.plain_patches(task, task.training_items(self.stage))
        supports = SupportSource(replace(patches, seed=self.seed), tuple(scheme.foreground))
        found = []
        for draw in range(self.draws):
            episode = {name: value.to(device) for name, value in supports.draw(draw).items()}
            target, _ = cycle.encoder(episode["support_labels"])
            found.append(cycle.prototypes(extractor(episode["support_image"]), target))
        return torch.stack(found)


def around(spacing: Spacing) -> Shape:
    """How far around foreground background is pooled, voxels for mm along the plan's axes."""
    return margin_voxels(AROUND_MM, spacing)


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = load_file(folder / WEIGHTS)
    return weights
