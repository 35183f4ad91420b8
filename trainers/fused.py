"""Optimizers that update all parameters in one kernel, where that pays."""

from __future__ import annotations

import torch


def use_fused(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let SGD and the Adams run fused on a GPU; others, and CPUs, stay as they are.

    Set on the groups, not in the constructor: an optimizer that was built fused claims to unscale
    float16 gradients itself, and Fabric then refuses to clip them.
    """
    if device.type != "cuda":
        return
    for group in optimizer.param_groups:
        if "fused" in group and not group.get("differentiable"):
            group["fused"], group["foreach"] = True, False
    for parameter, state in optimizer.state.items():
        step = state.get("step")
        if isinstance(step, torch.Tensor):  # a checkpoint holds it on the CPU
            state["step"] = step.to(parameter.device, torch.float32)
