"""Fabric for one process, or for one of several that each hold the whole network."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from renalplan.errors import TrainingError, UsageError
from renalplan.started import started_here, started_world
from renalplan.trainers import ranks
from renalplan.trainers.task import Hardware


class Replicas(DDPStrategy):
    """Fabric's data-parallel strategy with plain networks: the loop adds up their gradients.

    PyTorch's wrapper waits for a gradient of every parameter, but some of ours never get one (the
    coarsest head of deep supervision, DenseBiasNet's last compressions), and its average has no
    place for shares of different sizes.
    """

    def setup_module(self, module: nn.Module) -> Any:
        """The network itself."""
        return module


def build_fabric(hardware: Hardware, precision: Any) -> Fabric:
    """This process' device and precision.

    Args:
        hardware: What to run on.
        precision: Fabric's name of it.
    """
    # it announces half precision at every phase, to a user who has asked for it
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    _choose_kernels(hardware.deterministic)
    kind = accelerator(hardware)
    world = started_world()
    if world == 1:
        _, _, number = hardware.device.partition(":")
        devices: Any = [int(number)] if number else 1
        # not what it finds out by itself: a batch script of SLURM is one process of one
        one: list[Any] = [LightningEnvironment()]
        return Fabric(accelerator=kind, devices=devices, precision=precision, plugins=one)
    here = started_here()
    strategy = Replicas(
        timeout=ranks.PATIENCE, process_group_backend="nccl" if kind == "cuda" else "gloo"
    )
    fabric = Fabric(
        accelerator=kind,
        devices=here,
        num_nodes=world // here,
        precision=precision,
        strategy=strategy,
        plugins=[_environment()],
    )
    fabric.launch()  # starts nothing, the processes are there: it brings them together
    return fabric


def _choose_kernels(deterministic: bool) -> None:
    """The fastest ones, found by trying, since all patches have one size; or those that repeat."""
    torch.backends.cudnn.benchmark = not deterministic
    # some have no repeatable form (trilinear resampling backwards): PyTorch warns of those it uses
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    if deterministic:  # read when the first matrix product runs on a GPU
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def accelerator(hardware: Hardware) -> str:
    """cuda, cpu or mps."""
    kind = hardware.device.partition(":")[0]
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return kind


def join(hardware: Hardware) -> None:
    """Meet the other processes, if torchrun, SLURM or --devices has started several.

    Raises:
        TrainingError: they did not come.
    """
    if started_world() == 1 or ranks.world() > 1:
        return
    try:
        build_fabric(hardware, "32-true")
        ranks.open_line()
    except (RuntimeError, ValueError) as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise TrainingError(
            f"the {started_world()} processes did not find each other ({reason})."
        ) from None


def check_devices(hardware: Hardware, devices: int) -> None:
    """Refuse what this machine does not have; on a CPU devices are processes.

    Args:
        hardware: The device asked for.
        devices: How many processes on this machine, more than one.

    Raises:
        UsageError: more than there are GPUs; a device that cannot be several.
    """
    kind, _, number = hardware.device.partition(":")
    if number:
        raise UsageError(
            f"--devices {devices} with --device {hardware.device}: that is one device; use --device "
            f"{kind}, and CUDA_VISIBLE_DEVICES to choose which."
        )
    if kind == "mps":
        raise UsageError(f"--devices {devices}: there is one mps device; use --devices 1.")
    if accelerator(hardware) == "cuda" and (found := torch.cuda.device_count()) < devices:
        raise UsageError(
            f"--devices {devices}: this machine has {found} GPU{'s' if found != 1 else ''}; use "
            f"--devices {found}."
        )


def _environment() -> ClusterEnvironment:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False)
