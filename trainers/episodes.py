"""Episodes: for each structure a labelled support patch that holds it, and query patches to segment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from numpy.random import Generator

from renalplan.errors import TrainingError
from renalplan.store import ItemArrays
from renalplan.trainers.randomness import seeded
from renalplan.trainers.sampling import PatchSource, draw_item
from renalplan.trainers.transform import Sample

SUPPORTS, QUERIES = 0, 1  # part of the seed, so that neither draws what the other does


@dataclass(frozen=True)
class SupportSource:
    """Labelled patches, one a structure, of different cases as long as there are enough.

    Attributes:
        patches: How and from which cases.
        structures: Names of the structures in the order of the network's classes.

    Raises:
        TrainingError: no case holds one of the structures.
    """

    patches: PatchSource
    structures: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.structures:
            if not self._holding(name):
                raise TrainingError(
                    f"none of the fold's training cases holds {name}: there is nothing to learn "
                    "its prototype from."
                )

    def draw(self, step: int, taken: set[str] | None = None) -> dict[str, torch.Tensor]:
        """Patches of one step, with K structures and C image channels.

        Args:
            step: With the patches' seed it decides everything.
            taken: Cases to leave out where that is possible; those drawn are added.

        Returns:
            `support_image` (K, C, *patch) float32 and `support_labels` (K, 1, *patch) int16; the
            k-th patch holds the k-th structure.
        """
        taken = set() if taken is None else taken
        samples = [
            self._sample(name, step, place, taken) for place, name in enumerate(self.structures)
        ]
        return {
            "support_image": torch.stack([sample["image"] for sample in samples]),
            "support_labels": torch.stack([sample["labels"] for sample in samples]),
        }

    def _sample(self, name: str, step: int, place: int, taken: set[str]) -> Sample:
        with seeded(self.patches.seed, step, place, SUPPORTS) as generator:
            item = _another(self._holding(name), taken, generator)
            places = item.places[name]
            voxel = places[generator.integers(len(places))]
            corner = self.patches.corner(item, voxel, generator)
            return self.patches.sample(item, corner, generator)

    def _holding(self, name: str) -> tuple[ItemArrays, ...]:
        return tuple(item for item in self.patches.items if item.item.structures.get(name))


@dataclass(frozen=True)
class EpisodeSource:
    """Support and query patches of one training step.

    Attributes:
        supports: Where support patches come from.
        queries: Where query patches come from: how many is its batch size, and its foreground share
            the probability that one must hold foreground.
    """

    supports: SupportSource
    queries: PatchSource

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """Patches of one episode with B queries, see `SupportSource.draw`.

        Returns:
            The supports, and `image` (B, C, *patch) and `labels` (B, 1, *patch) of the queries.
        """
        taken: set[str] = set()
        episode = self.supports.draw(step, taken)
        wanted = self.queries.places or range(self.queries.batch_size)
        for place in range(wanted.start):  # their cases are taken, whoever reads them
            self._item(step, place, taken)
        samples = [self._query(step, place, taken) for place in wanted]
        episode["image"] = torch.stack([sample["image"] for sample in samples])
        episode["labels"] = torch.stack([sample["labels"] for sample in samples])
        return episode

    def only(self, places: range) -> Self:
        """The same source that makes these queries of each episode alone, and all supports."""
        return replace(self, queries=self.queries.only(places))

    def _item(self, step: int, place: int, taken: set[str]) -> None:
        with seeded(self.queries.seed, step, place, QUERIES) as generator:
            _another(self.queries.items, taken, generator)

    def _query(self, step: int, place: int, taken: set[str]) -> Sample:
        source = self.queries
        with seeded(source.seed, step, place, QUERIES) as generator:
            item = _another(source.items, taken, generator)
            forced = bool(generator.random() < source.foreground_share)
            voxel = source.voxel(item, generator, forced)
            return source.sample(item, source.corner(item, voxel, generator), generator)


def _another(items: tuple[ItemArrays, ...], taken: set[str], generator: Generator) -> ItemArrays:
    """An item of a case that the episode does not have yet, if there is one; it has it now."""
    fresh = tuple(item for item in items if item.case not in taken)
    item = draw_item(fresh or items, generator)
    taken.add(item.case)
    return item
