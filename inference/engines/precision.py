"""Which number format a network is run in."""

from __future__ import annotations

from pathlib import Path

import torch

from renalplan.errors import UsageError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FLAGS = {"avx512_bf16", "amx_bf16"}  # of a processor that multiplies bfloat16


def choose_precision(name: str, device: torch.device) -> str:
    """`auto`: fp16 on CUDA, bf16 on a CPU made for it, else fp32.

    Raises:
        UsageError: no such format, or not on this device.
    """
    if name not in PRECISIONS:
        raise UsageError(f"--precision {name} is not known; use {', '.join(PRECISIONS)}.")
    if name == "auto":
        if device.type == "cuda":
            return "fp16"
        return "bf16" if device.type == "cpu" and multiplies_bf16() else "fp32"
    if device.type == "cpu" and name == "fp16":
        raise UsageError("--precision fp16 is for GPUs; a CPU takes fp32 or bf16.")
    if device.type == "mps" and name != "fp32":
        raise UsageError(f"--precision {name} is not supported with --device mps; use fp32.")
    return name


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor multiplies bfloat16; False where nobody says so."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return bool(FLAGS & set(flags.split()))


def torch_type(precision: str) -> torch.dtype:
    """PyTorch's name of it."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
