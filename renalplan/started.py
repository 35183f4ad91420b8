"""How many processes were started to train together; looked up without PyTorch, before anything is imported."""

from __future__ import annotations

import os


def started_world() -> int:
    """How many processes torchrun or SLURM's srun (or we, in their way) have started; 1 if none."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    if "SLURM_STEP_NUM_TASKS" in os.environ:  # set by srun alone: a batch script is one process
        return int(os.environ["SLURM_STEP_NUM_TASKS"])
    return 1


def started_here() -> int:
    """How many of them are on this machine."""
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return started_world()
