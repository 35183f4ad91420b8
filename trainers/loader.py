"""Batches ahead of time: batchgenerators' augmenter, fed by step number."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import torch
from batchgenerators.dataloading.data_loader import SlimDataLoaderBase
from batchgenerators.dataloading.multi_threaded_augmenter import MultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter

from renalplan.errors import WorkerError
from renalplan.interruption import spare
from renalplan.trainers.deferral import halves, to_device
from renalplan.trainers.sampling import BatchSource
from renalplan.vitals import follow


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
        self.parent = os.getpid()

    def set_thread_id(self, thread_id: int) -> None:
        """Called inside each worker process when it starts."""
        super().set_thread_id(thread_id)
        follow(self.parent)
        # A forked child of a process that has used OpenMP must not open a thread team of its own.
        torch.set_num_threads(1)

    def generate_train_batch(self) -> dict[str, torch.Tensor]:
        """The next batch of this worker."""
        step = self.first + self.thread_id + self.made * self.stride
        self.made += 1
        return self.source.batch(step)


class Batches:
    """Iterator over the batches of a source from one step on; close it when done.

    On a GPU, batches are finished there if their source allows it, see `deferral`.
    """

    def __init__(
        self,
        source: BatchSource,
        first: int,
        *,
        workers: int,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> None:
        begun, self._finish = halves(source, device)
        self._device = device
        pin = device.type == "cuda"
        loader = StepLoader(begun, first, workers)
        self.augmenter: Any = (
            MultiThreadedAugmenter(loader, None, workers, num_cached_per_queue=2, pin_memory=pin)
            if workers > 0
            else SingleThreadedAugmenter(loader, None)
        )
        if workers > 0:
            self.augmenter.restart()  # which is how it is started before the first batch is asked for
            _end_with_its_thread(self.augmenter)

    def __next__(self) -> dict[str, torch.Tensor]:
        try:
            batch = next(self.augmenter)
        except RuntimeError as problem:
            if "no longer alive" not in str(problem):
                raise
            raise WorkerError(
                "a data worker died (its own message is above; without one, memory ran out); "
                "train again with --workers 0 or fewer: it continues from the last checkpoint."
            ) from None
        return self._finish(to_device(batch, self._device))

    def close(self) -> None:
        """Stop the workers."""
        if isinstance(self.augmenter, MultiThreadedAugmenter):
            _take_what_was_sent(self.augmenter)
            self.augmenter._finish()


def _end_with_its_thread(augmenter: Any) -> None:
    """Have waiting for a batch end when the thread that fetches batches does.

    A worker that dies while a batch of its is being fetched takes that thread with it, and the
    augmenter would wait for ever.
    """
    fetching, over = augmenter.pin_memory_thread, augmenter.abort_event
    spare(fetching)

    def follow_it() -> None:
        fetching.join()
        over.set()

    threading.Thread(target=follow_it, daemon=True).start()


def _take_what_was_sent(augmenter: Any, patience_s: float = 10.0) -> None:
    """Pause the workers and empty their queues.

    A tensor in a queue lives in its worker's memory: a worker that ends first makes the thread that
    is fetching it print a traceback at the end of every training.
    """
    if not (augmenter.was_initialized and hasattr(augmenter, "pause_event")):
        return
    augmenter.pause_event.set()
    limit = time.monotonic() + patience_s
    quiet = 0
    while quiet < 3 and not augmenter.abort_event.is_set() and time.monotonic() < limit:
        quiet += 1
        while not augmenter.pin_memory_queue.empty():
            augmenter.pin_memory_queue.get()
            quiet = 0
        if any(not queue.empty() for queue in augmenter._queues):
            quiet = 0
        time.sleep(augmenter.wait_time)
