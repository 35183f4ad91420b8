"""Sources whose samples are drawn one by one: first read, with what happens to them, then varied."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Self

import torch

from renalplan.trainers.transform import Sample
from renalplan.trainers.variation import Variation


class DrawnSource(ABC):
    """Makes a batch of samples, in two halves; a data class of what it draws from.

    Attributes:
        batch_size: Samples a batch.
        places: Which samples of a batch are made; None makes all.
    """

    batch_size: int
    places: range | None

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """Every name of a sample -> (B, channels, *patch), of one step."""
        return self.finished(self.begun(step))

    @property
    @abstractmethod
    def halvable(self) -> bool:
        """Whether another device may finish what a worker has begun."""

    def begun(self, step: int) -> dict[str, Any]:
        """What a worker does of `batch`: read patches with margins, and say how to vary them."""
        places = range(self.batch_size) if self.places is None else self.places
        pairs = [self._begin(step, place) for place in places]
        return {"samples": [sample for sample, _ in pairs], "drawn": [drawn for _, drawn in pairs]}

    def finished(self, begun: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The rest of `batch`, on whatever device the patches are."""
        pairs = zip(begun["samples"], begun["drawn"], strict=True)
        samples = [self._vary(sample, drawn) for sample, drawn in pairs]
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def only(self, places: range) -> Self:
        """The same source that makes these samples of each batch alone."""
        return replace(self, places=places)  # type: ignore[type-var]

    @abstractmethod
    def _begin(self, step: int, place: int) -> tuple[Sample, Any]:
        """A sample with what is around it, and what will happen to it."""

    @abstractmethod
    def _vary(self, sample: Sample, drawn: Variation | None) -> Sample:
        """The sample as it goes into the batch."""
