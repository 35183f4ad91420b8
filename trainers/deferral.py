"""A batch in two halves: data workers read, the network's own GPU does the rest.

On a CPU the workers do both, with the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from renalplan.trainers.sampling import BatchSource

Batch = dict[str, Tensor]
Finish = Callable[[dict[str, Any]], Batch]


@runtime_checkable
class HalvableSource(Protocol):
    """A source whose `batch(step)` is `finished(begun(step))`."""

    @property
    def halvable(self) -> bool:
        """Whether `finished` works on a GPU."""

    def begun(self, step: int) -> dict[str, Any]:
        """What a worker does; tensors in it may be moved to another device."""

    def finished(self, begun: dict[str, Any]) -> Batch:
        """The rest, on the device of its tensors."""


@dataclass(frozen=True)
class FirstHalf:
    """The half that workers make."""

    source: HalvableSource

    def batch(self, step: int) -> dict[str, Any]:
        """See `HalvableSource.begun`."""
        return self.source.begun(step)


def is_halvable(source: object) -> TypeGuard[HalvableSource]:
    """Whether a GPU may finish the source's batches."""
    return isinstance(source, HalvableSource) and source.halvable


def halves(source: BatchSource, device: torch.device) -> tuple[BatchSource, Finish]:
    """What workers make for this device, and what is done with it there."""
    if device.type == "cuda" and is_halvable(source):
        return FirstHalf(source), source.finished
    return source, _as_it_is


def _as_it_is(batch: dict[str, Any]) -> Batch:
    return batch


def to_device(values: Any, device: torch.device) -> Any:
    """Every tensor in dictionaries and lists, moved without waiting for it; all else as it is."""
    if isinstance(values, Tensor):
        return values.to(device, non_blocking=True)
    if isinstance(values, dict):
        return {name: to_device(value, device) for name, value in values.items()}
    if isinstance(values, list):
        return [to_device(value, device) for value in values]
    return values
