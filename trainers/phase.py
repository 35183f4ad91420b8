"""One step of a trainer. A phase trains one network, or only computes; each resumes on its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from renalplan.files import atomic_file, writing
from renalplan.model_folder import WEIGHTS, build_network
from renalplan.plan import NetworkSpec

if TYPE_CHECKING:
    from renalplan.trainers.sampling import BatchSource
    from renalplan.trainers.task import TrainingTask

DONE = "done"


class Phase(ABC):
    """One step, in a folder of its own: `fold_N/<name>/`.

    Attributes:
        together: Whether all processes run it, where several train together; else the first alone.
    """

    name: str
    together: ClassVar[bool] = False

    @abstractmethod
    def run(self, task: TrainingTask) -> None:
        """Do it, or what is left of it after a kill."""

    @abstractmethod
    def is_done(self, task: TrainingTask) -> bool:
        """Whether it ran to its end."""

    @property
    def size(self) -> str:
        """Its name and how long it is, for the user."""
        return self.name

    def windows(self, task: TrainingTask) -> int | None:
        """How many patches it will predict, besides training; None if that is not known.

        What a budget keeps free for it; asked before it runs, so earlier phases may not have run either.
        """
        return None

    def folder(self, task: TrainingTask) -> Path:
        """Where it keeps its files."""
        return task.fold_folder / self.name


class NetworkPhase(Phase):
    """A phase that leaves a network's weights behind.

    Attributes:
        name: Of the phase, its folder, and the network in trainer.json.
        network: How to build it.
    """

    def __init__(self, name: str, network: NetworkSpec) -> None:
        self.name = name
        self.network = network

    def is_done(self, task: TrainingTask) -> bool:
        """See `Phase.is_done`."""
        return (self.folder(task) / WEIGHTS).is_file()

    def build(self) -> nn.Module:
        """The untrained network."""
        return build_network(self.network, f"phase {self.name}")


class FixedNetwork(NetworkPhase):
    """A network that needs no training (an oracle, a threshold): its weights are stored as built."""

    def windows(self, task: TrainingTask) -> int:
        """See `Phase.windows`."""
        return 0

    def run(self, task: TrainingTask) -> None:
        """See `Phase.run`."""
        save_weights(self.folder(task) / WEIGHTS, self.build())


class TrainedNetwork(NetworkPhase):
    """A network trained by the loop. A method's file says only what its paper changes here.

    Attributes:
        epochs: Rounds; each ends with validation, a log line and a checkpoint.
        iterations: Training steps a round.
        gradient_clip: Largest gradient norm.
        looks: Batches that `validate` looks at, if that is known.
        seed: Decides initial weights and dropout; batches draw from their source's own.
        batch_size: Samples a step, of all processes together; None if it is not known beforehand.
        divides: Whether a batch can be worked on in parts: the loss is a mean over samples, or takes
            its sums over the batch with `losses.batch_sum`. A subclass with another `loss` says so
            anew, since nobody can see it from outside.
        whole: Tensors of a batch that every part of it needs whole.
    """

    epochs: int
    iterations: int
    gradient_clip: float = 12.0
    looks: int = 0
    seed: int = 0
    together = True
    divides: ClassVar[bool] = False
    whole: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if {"loss", "criterion_for"} & vars(cls).keys() and "divides" not in vars(cls):
            cls.divides = False

    @property
    def batch_size(self) -> int | None:
        """See the class."""
        return None

    @property
    def size(self) -> str:
        """See `Phase.size`."""
        return f"{self.name} {self.epochs} x {self.iterations} steps"

    @abstractmethod
    def training_batches(self, task: TrainingTask) -> BatchSource:
        """Where training batches come from: the fold's training cases, nothing else."""

    @abstractmethod
    def loss(self, network: nn.Module, batch: dict[str, Tensor], step: int) -> Tensor:
        """The scalar to minimise on one batch (already on the device)."""

    @abstractmethod
    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """A fresh optimizer; its learning rate is multiplied by `rate`."""

    def rate(self, step: int, steps: int) -> float:
        """Learning-rate factor at a step: polynomial decay, power 0.9 [Isensee2021]."""
        return (1 - step / steps) ** 0.9

    def prepare(self, task: TrainingTask) -> None:
        """Make what depends on the task; called before batches or a loss are wanted."""

    def initialise(self, network: nn.Module) -> None:
        """Change the fresh network before training, e.g. with earlier phases' weights."""

    def validate(
        self, network: nn.Module, task: TrainingTask, device: torch.device
    ) -> dict[str, float]:
        """Quick figures at the end of a round (network in evaluation mode); columns of the log."""
        return {}

    def run(self, task: TrainingTask) -> None:
        """See `Phase.run`."""
        from renalplan.trainers.loop import fit

        self.prepare(task)
        fit(self, task)


@dataclass
class ComputePhase(Phase):
    """A phase without a network: `compute(task, folder)` leaves files behind.

    It must be safe to call again after a kill.

    Attributes:
        predicts: Says how many patches `compute` predicts, see `Phase.windows`.
    """

    name: str
    compute: Callable[[TrainingTask, Path], None] = field(repr=False)
    predicts: Callable[[TrainingTask], int] | None = field(default=None, repr=False)

    def windows(self, task: TrainingTask) -> int | None:
        """See `Phase.windows`."""
        return None if self.predicts is None else self.predicts(task)

    def is_done(self, task: TrainingTask) -> bool:
        """See `Phase.is_done`."""
        return (self.folder(task) / DONE).is_file()

    def run(self, task: TrainingTask) -> None:
        """See `Phase.run`."""
        folder = self.folder(task)
        folder.mkdir(parents=True, exist_ok=True)
        self.compute(task, folder)
        with atomic_file(folder / DONE) as temporary:
            temporary.touch()


def save_weights(path: Path, network: nn.Module) -> None:
    """Write a network's state as safetensors, by rename."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    with atomic_file(path) as temporary, writing(path, SafetensorError):
        save_file(state, temporary)
