"""What a phase's training step takes of a device's memory, said before the first one is made."""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from renalplan.networks.live_memory import Batch, step_bytes
from renalplan.trainers.parts import divided, samples_of
from renalplan.trainers.phase import TrainedNetwork

log = logging.getLogger(__name__)
GB = 1024**3


def phase_bytes(phase: TrainedNetwork, batch: Batch, *, half: bool, parts: int = 1) -> int:
    """Peak bytes in tensors of a step, counted without computing or allocating any.

    Args:
        phase: Ready to train; its network, loss and optimizer are counted.
        batch: Of a step: shapes and types matter.
        half: See `step_bytes`.
        parts: In how many parts, one after the other, it is worked on.
    """
    shapes = {name: torch.empty_like(values, device="meta") for name, values in batch.items()}
    pieces = divided(shapes, samples_of(shapes, phase.whole), parts, phase.whole)
    largest = max(pieces, key=lambda piece: samples_of(piece, phase.whole))
    apart = copy.copy(phase)  # a loss that moves to `meta` could not come back from there
    for name, value in vars(phase).items():
        if isinstance(value, nn.Module):
            setattr(apart, name, copy.deepcopy(value))

    def loss(network: nn.Module, given: dict[str, Tensor]) -> Tensor:
        return apart.loss(network, given, 0)

    return step_bytes(phase.build, largest, loss, phase.optimizer, half=half)


def say_memory(
    phase: TrainedNetwork, batch: Batch, device: torch.device, *, half: bool, parts: int
) -> None:
    """Log what a step is expected to take of a GPU's memory, if that can be counted.

    Args:
        phase: See `phase_bytes`, as for the rest.
        batch: Of a step.
        device: The GPU.
        half: Whether in half precision.
        parts: See `phase_bytes`.
    """
    try:
        expected = phase_bytes(phase, batch, half=half, parts=parts)
    except Exception as problem:
        # somebody's own network or loss may look at values, of which there are none here
        log.debug("the memory of phase %s cannot be counted: %s", phase.name, problem)
        return
    free, there = torch.cuda.mem_get_info(device)
    log.info(
        "phase %s: a step holds about %.1f GB in tensors; %.1f GB of %.1f GB are free",
        phase.name,
        expected / GB,
        free / GB,
        there / GB,
    )
