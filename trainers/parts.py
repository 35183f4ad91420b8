"""A step's batch in parts: among the processes that train together, and one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from renalplan.errors import UsageError
from renalplan.trainers.sampling import BatchSource

Batch = dict[str, Tensor]


class Divisible(Protocol):
    """A source that can leave out samples it is not asked for: no scan is read for them."""

    def only(self, places: range) -> Self:
        """The same source that makes these samples of each batch alone, unchanged."""


@dataclass(frozen=True)
class SlicedSource:
    """Some samples of another source's batches, which are made whole: for sources without `only`.

    Attributes:
        source: Makes the batches.
        places: Which samples.
        whole: Names of tensors that are left whole.
    """

    source: BatchSource
    places: range
    whole: tuple[str, ...]

    def batch(self, step: int) -> Batch:
        """See `BatchSource.batch`."""
        return cut(self.source.batch(step), self.places, self.whole)


def share(samples: int, rank: int, world: int) -> range:
    """The samples of a batch that a rank works on; the first ranks have one more where it must be.

    Raises:
        UsageError: fewer samples than ranks.
    """
    if samples < world:
        raise UsageError(
            f"a batch of {samples} cannot be divided among {world} processes: --devices {samples} "
            f"at most, or --set batch_size={world}."
        )
    low, high = (samples * number // world for number in (world - rank - 1, world - rank))
    return range(samples - high, samples - low)


def only(source: BatchSource, places: range, whole: tuple[str, ...] = ()) -> BatchSource:
    """A source of some of the samples of each batch.

    Args:
        source: Makes batches.
        places: Which samples.
        whole: Names of tensors that every part of a batch needs whole.
    """
    divisible: Any = getattr(source, "only", None)
    if divisible is None:
        return SlicedSource(source, places, whole)
    found: BatchSource = divisible(places)
    return found


def divided(batch: Batch, samples: int, parts: int, whole: tuple[str, ...]) -> list[Batch]:
    """A batch in parts as equal as they can be, each of a sample or more.

    Args:
        batch: Tensors of a step.
        samples: How many the batch has.
        parts: How many are wanted.
        whole: Names of tensors that every part needs whole.
    """
    parts = min(parts, samples)
    if parts == 1:
        return [batch]
    return [cut(batch, share(samples, number, parts), whole) for number in range(parts)]


def samples_of(batch: Batch, whole: tuple[str, ...]) -> int:
    """How many samples a batch has."""
    return next(len(values) for name, values in batch.items() if name not in whole)


def cut(batch: Batch, places: range, whole: tuple[str, ...]) -> Batch:
    """These samples of a batch."""
    part = slice(places.start, places.stop)
    return {name: v if name in whole else v[part] for name, v in batch.items()}


def join_flat(values: list[Tensor]) -> Tensor:
    """Tensors of any shapes -> one vector."""
    return torch.cat([value.reshape(-1) for value in values])


def split_flat(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """What `join_flat` joined, in the shapes of these."""
    pieces = flat.split([value.numel() for value in like])
    return [piece.view(value.shape) for piece, value in zip(pieces, like, strict=True)]
