"""One training step's gradient: of a batch as a whole, or of its parts, with the same result.

The batch of a step is divided among the processes that train together; a process may work on its
share in parts that follow one another, which takes less memory. Sums over the batch that a loss
divides by each other are taken over all parts (`batch_sum`). Parts that follow one another learn
those sums in a pass without gradients first, which takes about a third more time; a loss that needs
none of them (a mean over samples) does without it.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from renalplan.errors import TrainingError
from renalplan.trainers import ranks
from renalplan.trainers.divisible import sees_its_batch
from renalplan.trainers.losses.batch_sums import summed_by, with_own_gradient
from renalplan.trainers.parts import Batch, divided, join_flat, samples_of, split_flat
from renalplan.trainers.phase import TrainedNetwork

log = logging.getLogger(__name__)
SEEDS_A_STEP = 4099  # dropout of each rank and part has a seed of its own


class BatchGradient:
    """Computes the loss of a batch and its gradient.

    Attributes:
        phase: Whose loss.
        fabric: Autocast and the scaling of gradients.
        network: As `fabric.setup` gave it.
        parts: In how many parts a batch is worked on here, one after the other.
        grows: Whether `parts` may double when memory runs out.
    """

    def __init__(
        self, phase: TrainedNetwork, fabric: Any, network: nn.Module, parts: int | None
    ) -> None:
        self.phase = phase
        self.fabric = fabric
        self.network = network
        self.parts = parts or 1
        # several processes cannot agree on it in the midst of a step
        self.grows = parts is None and phase.divides and ranks.world() == 1
        self.grows &= not sees_its_batch(network)
        # when memory runs out is not the same twice, and sums in parts round differently
        self.grows &= not torch.are_deterministic_algorithms_enabled()
        self._sums: bool | None = None  # whether the loss asks for sums over the batch

    def __call__(self, batch: Batch, step: int, seed: int) -> Tensor:
        """The batch's loss, without gradient; the gradients are in the network's parameters.

        Args:
            batch: This rank's share of the step's batch, on the device.
            step: Number of the step.
            seed: Of what is random in the network (dropout).

        Raises:
            TrainingError: the device's memory does not hold a step.
        """
        samples = samples_of(batch, self.phase.whole)
        while True:
            try:
                return self._in_parts(batch, samples, step, seed)
            except torch.cuda.OutOfMemoryError:
                if not self.grows or self.parts >= samples:
                    raise TrainingError(self._advice(samples)) from None
            # here, where the exception no longer holds what the step had made
            self._divide_further(samples)

    def _in_parts(self, batch: Batch, samples: int, step: int, seed: int) -> Tensor:
        self.network.zero_grad(set_to_none=True)
        phase = self.phase
        pieces = divided(batch, samples, self.parts, phase.whole)
        together = samples if ranks.world() == 1 else phase.batch_size or samples
        weights = [samples_of(piece, phase.whole) / together for piece in pieces]
        totals = self._totals(pieces, step, seed)
        value = torch.zeros((), device=self.fabric.device)
        for number, (piece, weight) in enumerate(zip(pieces, weights, strict=True)):
            torch.manual_seed(_part_seed(seed, number))
            with summed_by(_sum_with(weight, totals)):
                loss = phase.loss(self.network, piece, step)
            # a whole batch's loss stays what it is, to the last bit
            loss = loss if weight == 1 else loss * weight
            self.fabric.backward(loss)
            value = loss.detach() if weight == 1 else value + loss.detach()
        return ranks.sum_gradients(self.network, value)

    def _totals(self, pieces: list[Batch], step: int, seed: int) -> list[Tensor] | None:
        """The sums that the loss asks for, of the whole batch; None if they can be had on the way."""
        if self.parts == 1 or self._sums is False:
            return None
        added: list[Tensor] = []
        for number, piece in enumerate(pieces):
            heard: list[Tensor] = []

            def keep(values: Tensor, heard: list[Tensor] = heard) -> Tensor:
                heard.append(values.detach())
                return values

            torch.manual_seed(_part_seed(seed, number))
            with torch.no_grad(), summed_by(keep):
                self.phase.loss(self.network, piece, step)
            self._sums = bool(heard)
            if not heard:
                return None
            added = [a + b for a, b in zip(added, heard, strict=True)] if added else heard
        return split_flat(ranks.total(join_flat(added)), added)

    def _divide_further(self, samples: int) -> None:
        self.network.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.parts = min(samples, 2 * self.parts)
        log.warning(
            "phase %s: a batch of %d does not fit the device's memory; it goes on in %d parts one "
            "after the other, which learn the same (--accumulate %d begins so)",
            self.phase.name,
            samples,
            self.parts,
            self.parts,
        )

    def _advice(self, samples: int) -> str:
        text = f"phase {self.phase.name}: a step needs more memory than the device has"
        if not self.phase.divides:
            return f"{text}, and its loss is not known to fall into parts; lower batch_size."
        if self.parts < samples:
            return f"{text}; use --accumulate {min(samples, 2 * self.parts)}."
        return f"{text}, even for one sample; plan with a smaller --gpu_memory."


def _sum_with(weight: float, totals: list[Tensor] | None) -> Any:
    """What `batch_sum` does in a part of this weight; None if the part is all there is."""
    if totals is not None:
        found = iter(totals)
        return lambda own: with_own_gradient(next(found), own, weight)
    if ranks.world() > 1:
        return lambda own: with_own_gradient(ranks.total(own), own, weight)
    return None


def _part_seed(seed: int, number: int) -> int:
    """Of the first part of the first rank: the step's own."""
    return (seed + SEEDS_A_STEP * (1000 * ranks.rank() + number)) % 2**62
