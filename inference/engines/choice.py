"""Which library runs a network."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from renalplan.errors import UsageError
from renalplan.geometry import Shape
from renalplan.inference.engines.engine import Engine
from renalplan.inference.engines.openvino_engine import (
    ConversionError,
    OpenVinoEngine,
    is_installed,
)
from renalplan.inference.engines.torch_engine import TorchEngine

ENGINES = ("auto", "torch", "openvino")
log = logging.getLogger(__name__)


def choose_engine(name: str, device: torch.device) -> str:
    """`auto` is OpenVINO on a CPU if it is installed, else PyTorch.

    Raises:
        UsageError: no such engine, or not here.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine {name} is not known; use {', '.join(ENGINES)}.")
    if name == "auto":
        return "openvino" if device.type == "cpu" and is_installed() else "torch"
    if name == "openvino" and not is_installed():
        raise UsageError(
            '--engine openvino needs OpenVINO: pip install "renalplan[openvino]", or use --engine torch.'
        )
    if name == "openvino" and device.type != "cpu":
        raise UsageError(f"--engine openvino runs on the CPU, not on {device}; use --device cpu.")
    return name


def make_engine(
    network: nn.Module,
    channels: int,
    patch: Shape,
    *,
    engine: str,
    device: torch.device,
    precision: str,
    weights: Path | None = None,
) -> Engine:
    """A network made ready.

    Args:
        network: In evaluation mode, on the CPU.
        channels: Its input channels.
        patch: The size of what it will be given.
        engine: torch or openvino.
        device: Where PyTorch computes.
        precision: fp32, bf16 or fp16.
        weights: Its file, to keep a conversion beside.
    """
    if engine == "openvino":
        try:
            return OpenVinoEngine(network, channels, patch, precision=precision, weights=weights)
        except ConversionError as problem:
            log.warning("OpenVINO does not run this network, PyTorch does: %s", problem)
    return TorchEngine(network, device, precision)
