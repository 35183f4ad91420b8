"""checkpoint.pt: what an interrupted phase needs to go on as if nothing had happened."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from renalplan.errors import TrainingError
from renalplan.files import atomic_file, writing

CHECKPOINT = "checkpoint.pt"


@dataclass
class TrainingState:
    """State after some finished epochs.

    Attributes:
        network: Its state dict.
        optimizer: Its state dict.
        epoch: Finished epochs; the next one to train.
        rows: The log so far, one row an epoch.
        done: Steps trained; None in files of versions whose epochs were all equally long.
    """

    network: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    epoch: int
    rows: list[dict[str, float]]
    done: int | None = None

    def steps(self, iterations: int) -> int:
        """Steps trained, where an epoch is so many if the file does not say."""
        return self.epoch * iterations if self.done is None else self.done


def save_checkpoint(folder: Path, state: TrainingState) -> None:
    """Write by rename: a kill leaves the old checkpoint or the new one, never half of one."""
    path = folder / CHECKPOINT
    with atomic_file(path) as temporary, writing(path, RuntimeError):
        torch.save(vars(state), temporary)


def load_checkpoint(folder: Path) -> TrainingState | None:
    """The last checkpoint, None if there is none.

    Raises:
        TrainingError: the file is damaged or holds anything but tensors and plain values.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():  # PyTorch's advice is for those who wrote the file
            warnings.simplefilter("ignore", UserWarning)
            value = torch.load(path, map_location="cpu", weights_only=True)
        return TrainingState(**value)
    except Exception as problem:  # what damaged bytes raise in the unpickler is listed nowhere
        reason = next(iter(str(problem).splitlines()), type(problem).__name__).partition(". ")[0]
        raise TrainingError(
            f"{path} is damaged or not one of ours ({reason}); delete it to train this phase anew."
        ) from None
