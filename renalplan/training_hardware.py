"""What training runs on: the processes that share it, their device, precision and data workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from renalplan.errors import UsageError
from renalplan.parallel import data_loaders, usable_cores
from renalplan.started import started_here, started_world

if TYPE_CHECKING:
    from renalplan.trainers.task import TrainingTask

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def starts_several(device: str, devices: int, accumulate: int | None) -> bool:
    """Whether this process is to start others, and only waits for them.

    Raises:
        UsageError: devices that are not here, or others that were started already; no parts.
    """
    if accumulate is not None and accumulate < 1:
        raise UsageError(f"--accumulate {accumulate}: at least 1.")
    if devices < 1:
        raise UsageError(f"--devices {devices}: at least 1.")
    if devices == 1:
        return False
    from renalplan.trainers.replicas import check_devices
    from renalplan.trainers.task import Hardware

    check_devices(Hardware(device=device), devices)
    if (started := started_world()) > 1:
        raise UsageError(
            f"--devices {devices}: torchrun or SLURM has started {started} processes already; "
            "leave --devices out."
        )
    return True


def task_on(
    device: str,
    precision: Precision,
    workers: int | None,
    progress: bool,
    accumulate: int | None,
    deterministic: bool = False,
) -> Callable[..., TrainingTask]:
    """`TrainingTask` with the hardware filled in, once all processes that share it have met.

    Raises:
        UsageError: a precision it does not have, or fewer than no workers.
    """
    from renalplan.trainers.loop import choose_precision
    from renalplan.trainers.replicas import join
    from renalplan.trainers.task import Hardware, TrainingTask

    hardware = Hardware(
        device=device,
        precision=precision,
        workers=data_workers(workers),
        progress=progress,
        accumulate=accumulate,
        deterministic=deterministic,
    )
    choose_precision(hardware)
    join(hardware)
    return partial(TrainingTask, hardware=hardware)


def data_workers(wanted: int | None) -> int:
    """As asked for, else all cores but one, at most twelve; a single core prepares in process.

    Processes that train together on this machine share its cores.

    Raises:
        UsageError: fewer than none.
    """
    if wanted is not None and wanted < 0:
        raise UsageError(f"--workers {wanted} is not possible; 0 prepares in this process alone.")
    if wanted is not None:
        return wanted
    return data_loaders(usable_cores() // started_here())
