"""The contract between a model and the engine: one scan in, a field of probabilities out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from renalplan.errors import UsageError
from renalplan.images import Volume
from renalplan.inference.fields import ProbabilityField
from renalplan.model_folder import ModelFolder


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How to run a model.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        step: Window distance as a share of the patch, in (0, 1].
        tta: Average over mirrored copies (8 passes in 3-D): a little better, eight times slower.
        progress: Called with (what, windows done, windows in all).
    """

    device: str = "auto"
    step: float = 0.5
    tta: bool = False
    progress: Callable[[str, int, int], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise UsageError(f"--step {self.step} must be above 0 and at most 1.")

    def torch_device(self) -> torch.device:
        """The device to compute on.

        Raises:
            UsageError: it is not there.
        """
        return choose_device(self.device)


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        UsageError: the device asked for does not exist here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if kind not in available:
        raise UsageError(f"--device {name} is not known; use auto, cpu, cuda, cuda:N or mps.")
    if not available[kind]:
        raise UsageError(f"--device {name} is not available on this machine; use --device cpu.")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"--device {name} is not known; use auto, cpu, cuda, cuda:N or mps."
        ) from None


class Segmenter(ABC):
    """Turns scans into probability fields with the networks of one model folder.

    Constructors only store; networks are loaded on first use. JSON arguments of
    `trainer.json` arrive as keyword arguments.
    """

    def __init__(self, model: ModelFolder, folds: list[str], options: InferenceOptions) -> None:
        self.model = model
        self.folds = folds
        self.options = options

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases whose networks it predicts with: what a model must have with it."""
        return tuple(self.model.record.networks)

    def load(self) -> None:
        """Load what it needs now, so that a damaged model is not the first scan's failure.

        Raises:
            ModelError: a network is missing, damaged or not trusted.
        """
        return None

    @abstractmethod
    def segment(self, volume: Volume) -> ProbabilityField:
        """Probabilities on the volume's canonical grid, with what its rules decided, if it has any."""
