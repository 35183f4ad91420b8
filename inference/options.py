"""How to run a model: everything that is the user's choice and not the model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from renalplan.errors import UsageError
from renalplan.inference.engines.choice import choose_engine
from renalplan.inference.engines.precision import choose_precision
from renalplan.inference.room import Room
from renalplan.inference.scratch import Scratch

LARGEST_IN_MEMORY = 1 << 30  # bytes of one intermediate array, unless --max_ram says


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """How to run a model.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        engine: auto, torch or openvino: what runs the networks.
        precision: auto, fp32, bf16 or fp16.
        step: Window distance as a share of the patch, in (0, 1].
        tta: Average over mirrored copies (8 passes in 3-D): a little better, eight times slower.
        uncertainty: Also find out how far the networks disagree.
        batch: Patches computed at a time.
        skip_air: Do not compute windows in which there is no body.
        largest_in_memory: Bytes; larger intermediate arrays lie in files without a name.
        max_ram: Bytes this process may hold; None leaves it to the system. What does not fit lies in
            files, and what cannot lie there is refused before it is begun.
        max_vram: Bytes of a GPU's memory this process may hold.
        scratch_folder: Where those files are made; the system's folder for temporary files if None.
        progress: Called with (what, windows done, windows in all).
    """

    device: str = "auto"
    engine: str = "auto"
    precision: str = "auto"
    step: float = 0.5
    tta: bool = False
    uncertainty: bool = False
    batch: int = 1
    skip_air: bool = True
    largest_in_memory: int = LARGEST_IN_MEMORY
    max_ram: int | None = None
    max_vram: int | None = None
    scratch_folder: Path | None = None
    progress: Callable[[str, int, int], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise UsageError(f"--step {self.step} must be above 0 and at most 1.")
        if self.batch < 1:
            raise UsageError(f"--batch {self.batch} must be at least 1.")
        if self.uncertainty and self.max_ram is not None:
            raise UsageError(
                "what --uncertainty takes is not forecast; leave out --max_ram or --uncertainty."
            )

    def check(self) -> None:
        """Find out now whether device, engine and precision are there and go together.

        Raises:
            UsageError: they are not, or do not.
        """
        device = self.torch_device()
        choose_engine(self.engine, device)
        choose_precision(self.precision, device)
        if self.max_vram is None:
            return
        if device.type != "cuda":
            raise UsageError(f"--max_vram is for GPUs, and --device is {device}; use --max_ram.")
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, self.max_vram / total), device)

    def torch_device(self) -> torch.device:
        """The device to compute on.

        Raises:
            UsageError: it is not there.
        """
        return choose_device(self.device)

    def job(self) -> dict[str, Any]:
        """What results depend on: other values are another job.

        `auto` is one value, so that a job may go on on another machine.
        """
        names = ("step", "tta", "uncertainty", "engine", "precision")
        return {name: getattr(self, name) for name in names}

    def as_json(self) -> dict[str, Any]:
        """Plain values, without whom to tell."""
        values = {name: value for name, value in vars(self).items() if name != "progress"}
        folder = self.scratch_folder
        return values | {"scratch_folder": None if folder is None else str(folder.absolute())}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> InferenceOptions:
        """Of `as_json`."""
        folder = values.get("scratch_folder")
        return cls(**(values | {"scratch_folder": None if folder is None else Path(folder)}))

    def room(self) -> Room | None:
        """The memory there is; None if nobody said."""
        return None if self.max_ram is None else Room(self.max_ram)

    def scratch(self) -> Scratch:
        """Where large intermediate arrays are kept."""
        return Scratch(self.largest_in_memory, self.scratch_folder)


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
