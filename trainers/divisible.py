"""Which phases can be worked on by several processes, or in parts: checked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from renalplan.errors import UsageError
from renalplan.trainers.parts import share
from renalplan.trainers.phase import Phase, TrainedNetwork


def check_phases(phases: Iterable[Phase], world: int, accumulate: int | None) -> None:
    """Refuse phases whose batches cannot be divided with the result of the whole batch.

    Args:
        phases: A trainer's.
        world: How many processes train together.
        accumulate: In how many parts each works on its share; None if that is left to memory.

    Raises:
        UsageError: a loss that is not known to fall into parts, a batch smaller than `world`, more
            parts than samples.
    """
    if world == 1 and (accumulate or 1) == 1:
        return
    phases = list(phases)
    wish = f"{world} processes" if world > 1 else f"--accumulate {accumulate}"
    for phase in phases:
        if not isinstance(phase, TrainedNetwork):
            continue
        if not phase.divides or (world > 1 and phase.batch_size is None):
            raise UsageError(
                f"phase {phase.name} ({type(phase).__name__}) cannot be trained with {wish}: its "
                "loss is not known to be the same in parts; docs/write_a_trainer.md says how to "
                "make it so."
            )
        try:
            share(phase.batch_size or world, 0, world)
        except UsageError as problem:
            raise UsageError(f"phase {phase.name}: {problem}") from None
    batches = [p.batch_size for p in phases if isinstance(p, TrainedNetwork) and p.batch_size]
    largest = max((len(share(batch, 0, world)) for batch in batches), default=None)
    if largest is not None and (accumulate or 1) > largest:
        raise UsageError(
            f"--accumulate {accumulate}: a process has {largest} samples of a batch, which cannot be "
            f"worked on in more parts; give {largest} at most, or a larger --set batch_size."
        )


def sees_its_batch(network: nn.Module) -> bool:
    """Whether a network has batch norm: what it makes of a sample depends on the others."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def check_network(network: nn.Module, name: str, parts: int) -> None:
    """Refuse a network that looks at its batch as a whole, in a batch that is divided.

    Raises:
        UsageError: it has batch norm.
    """
    if parts > 1 and sees_its_batch(network):
        raise UsageError(
            f"phase {name}: its network has batch norm, which is another in every part of a batch; "
            "train it on one device with --accumulate 1, or give it instance or group norm."
        )
