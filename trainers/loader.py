"""Batches ahead of time: batchgenerators' augmenter, fed by step number."""

from __future__ import annotations

from typing import Any

import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from renalplan.errors import WorkerError
from renalplan.trainers.sampling import BatchSource


class StepLoader(SlimDataLoaderBase):
    """Makes batches `first, first + 1, …`; worker w of n makes every n-th, beginning with its own.

    The augmenter asks its workers in turn, so batches arrive in order whatever n is.
    """

    def __init__(self, source: BatchSource, first: int, workers: int) -> None:
        super().__init__(source, 1, max(1, workers))
        self.source = source
        self.stride = max(1, workers)
        self.first = first
        self.made = 0

    def set_thread_id(self, thread_id: int) -> None:
        """Called inside each worker process when it starts."""
        super().set_thread_id(thread_id)
        # A forked child of a process that has used OpenMP must not open a thread team of its own.
        torch.set_num_threads(1)

    def generate_train_batch(self) -> dict[str, torch.Tensor]:
        """The next batch of this worker."""
        step = self.first + self.thread_id + self.made * self.stride
        self.made += 1
        return self.source.batch(step)


class Batches:
    """Iterator over the batches of a source from one step on; close it when done."""

    def __init__(self, source: BatchSource, first: int, *, workers: int, pin: bool = False) -> None:
        loader = StepLoader(source, first, workers)
        self.augmenter: Any = (
            MultiThreadedAugmenter(loader, None, workers, num_cached_per_queue=2, pin_memory=pin)
            if workers > 0
            else SingleThreadedAugmenter(loader, None)
        )

    def __next__(self) -> dict[str, torch.Tensor]:
        try:
            return next(self.augmenter)
        except RuntimeError as problem:
            if "no longer alive" not in str(problem):
                raise
            raise WorkerError(
                "a data worker died (its own message is above; without one, memory ran out); "
                "train again with --workers 0 or fewer: it continues from the last checkpoint."
            ) from None

    def close(self) -> None:
        """Stop the workers."""
        if isinstance(self.augmenter, MultiThreadedAugmenter):
            self.augmenter._finish()
