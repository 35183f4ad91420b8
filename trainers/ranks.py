"""Processes that train one network together: who they are, and what they say to each other.

A single process is rank 0 of 1, and every function here is then the trivial one. The first rank
alone writes files, and does what is no network's training while the others wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from renalplan.errors import LostError, RenalplanError

Result = TypeVar("Result")

# no wait lasts longer without a word from the others; a step, with its data, must be shorter
PATIENCE = timedelta(minutes=30)
WORD_EVERY_S = 5.0  # the first rank says that it is at work
_talk: dict[str, Any] = {}  # the group that waiting ranks listen to, once there is one


def rank() -> int:
    """Which of the processes this is."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """How many there are."""
    return dist.get_world_size() if _together() else 1


def leads() -> bool:
    """Whether this process writes and reports."""
    return rank() == 0


def lead_alone(work: Callable[[], Result]) -> Result | None:
    """Do something on the first rank, however long it takes, while the others wait.

    They listen to a word every few seconds, so that none waits for one that is gone.

    Returns:
        What `work` returns on the first rank, None on the others.

    Raises:
        LostError: on the others, if it failed on the first.
    """
    if world() == 1:
        return work()
    with _speaking():
        if leads():
            return _work_and_say_so(work)
        while (word := _hear(None)) == "working":
            pass
    if word != "done":
        raise LostError(f"the first process has stopped: {word}")
    return None


def agreed(look: Callable[[], Result]) -> Result:
    """What the first rank sees, on all of them: others may look at a disk a moment too early."""
    if world() == 1:
        return look()
    with _speaking():
        found: Result = _hear(look() if leads() else None)
    return found


def total(values: Tensor) -> Tensor:
    """The sum over all ranks, without a gradient; the same on each."""
    if world() == 1:
        return values
    result = values.detach().clone(memory_format=torch.contiguous_format)
    with _speaking():
        dist.all_reduce(result)
    return result


def sum_gradients(network: nn.Module, loss: Tensor) -> Tensor:
    """Give every rank the sum of all ranks' gradients, and of their losses, which is returned.

    A parameter that no rank has a gradient for keeps none: an optimizer passes it over.
    """
    if world() == 1:
        return loss
    trained = [p for p in network.parameters() if p.requires_grad]
    device = loss.device
    there = torch.tensor([float(p.grad is not None) for p in trained], device=device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    parts = [gradient.detach().reshape(-1).float() for gradient in gradients]
    flat = total(torch.cat([*parts, there, loss.detach().float().reshape(1)]))
    known = flat[-1 - len(trained) : -1].tolist()
    start = 0
    for parameter, count in zip(trained, known, strict=True):
        end = start + parameter.numel()
        if count:
            summed = flat[start:end].view(parameter.shape)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            parameter.grad.copy_(summed)
        start = end
    return flat[-1]


def same_start(network: nn.Module) -> None:
    """Give every rank the first one's numbers: seeds are alike, but libraries need not be."""
    if world() == 1:
        return
    values: Iterable[Tensor] = (*network.parameters(), *network.buffers())
    with _speaking(), torch.no_grad():
        for value in values:
            whole = value.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(whole, 0)
            value.copy_(whole)


def open_line() -> None:
    """Make the group that waiting ranks listen to; called by all, once they have met."""
    if world() > 1 and "group" not in _talk:
        _talk["group"] = dist.new_group(backend="gloo", timeout=PATIENCE)


def part() -> None:
    """Leave the others; called when the work is done."""
    _talk.clear()
    if _together():
        dist.destroy_process_group()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _hear(said: Any) -> Any:
    """What the first rank says, on all ranks."""
    word = [said]
    dist.broadcast_object_list(word, 0, group=_talk.get("group"))
    return word[0]


def _work_and_say_so(work: Callable[[], Result]) -> Result:
    finished = threading.Event()
    lost: list[BaseException] = []

    def speak() -> None:
        while not finished.wait(WORD_EVERY_S):
            try:
                _hear("working")
            except RuntimeError as problem:  # a listener is gone
                lost.append(problem)
                return

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    word = "it failed, see its own message."
    try:
        result = work()
        word = "done"
    except RenalplanError as problem:
        word = str(problem)
        raise
    finally:
        finished.set()
        speaker.join()
        if not lost:
            _hear(word)
    if lost:
        raise lost[0]
    return result


@contextmanager
def _speaking() -> Iterator[None]:
    """Turn what a broken or silent connection raises into a sentence.

    Raises:
        LostError: another process has ended or is not heard of any more.
    """
    try:
        yield
    except RenalplanError:
        raise
    except RuntimeError as problem:
        if "out of memory" in str(problem):
            raise
        raise LostError(
            f"process {rank() + 1} of {world()} lost the others: one of them ended (its own message is "
            f"above) or has not answered for {PATIENCE.seconds // 60} minutes. The same command "
            "continues from the last checkpoint."
        ) from problem
