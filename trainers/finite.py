"""Steps whose loss or gradient is no number: left out, written down, and not too many in a row."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from renalplan.errors import TrainingError
from renalplan.files import atomic_file
from renalplan.trainers import ranks

log = logging.getLogger(__name__)
FOLDER = "bad_steps"
MOST_IN_A_ROW = 10
MOST_KEPT = 10  # batches on disk; a training gone wrong has as many as it has steps


class FiniteSteps:
    """Judges each step before the network learns from it.

    A gradient that is not finite would make every weight NaN for good. Looking costs one wait for
    the device a step, which the loss, read for the progress bar, costs anyway.

    Attributes:
        left_out: How many steps were left out so far.
    """

    def __init__(self, phase: str, folder: Path, *, scaled: bool) -> None:
        """Judge the steps of one network.

        Args:
            phase: Its name.
            folder: Where it is trained; batches of bad steps are kept in `bad_steps` there.
            scaled: Gradients are scaled for float16. Then they overflow now and then, and the
                scaler leaves those steps out itself.
        """
        self.phase = phase
        self.folder = folder / FOLDER
        self.scaled = scaled
        self.left_out = 0
        self._in_a_row = 0

    def take(self, step: int, loss: Tensor, norm: Tensor | None, batch: dict[str, Any]) -> bool:
        """Whether the optimizer may take this step.

        Args:
            step: Its number.
            loss: Of the batch.
            norm: Of all gradients together, before they were clipped.
            batch: What they are of.

        Raises:
            TrainingError: too many in a row may not.
        """
        value = float(loss)
        size = 0.0 if norm is None or self.scaled else float(norm)
        if math.isfinite(value) and math.isfinite(size):
            self._in_a_row = 0
            return True
        self.left_out += 1
        self._in_a_row += 1
        what = f"the loss is {value}" if not math.isfinite(value) else f"the gradient is {size}"
        kept = self._keep(step, batch, {"step": step, "loss": value, "gradient_norm": size})
        log.warning(
            "phase %s, step %d: %s; the step is left out%s",
            self.phase,
            step,
            what,
            f", its batch is in {kept}" if kept else "",
        )
        if self._in_a_row >= MOST_IN_A_ROW:
            raise TrainingError(
                f"phase {self.phase}: {what} at step {step} and at the {MOST_IN_A_ROW - 1} before it; "
                "lower the learning rate (--set learning_rate=…) or look at the batches in "
                f"{self.folder}. The last checkpoint is kept."
            )
        return False

    def _keep(self, step: int, batch: dict[str, Any], facts: dict[str, float]) -> Path | None:
        """Write a batch as safetensors, `load_file` reads it; None if there are enough."""
        self.folder.mkdir(parents=True, exist_ok=True)
        who = f".rank_{ranks.rank()}" if ranks.world() > 1 else ""
        if len(list(self.folder.glob(f"*{who}.safetensors"))) >= MOST_KEPT:
            return None
        path = self.folder / f"step_{step}{who}.safetensors"
        metadata = {name: str(value) for name, value in facts.items()}
        with atomic_file(path) as temporary:
            save_file(_flat(batch), temporary, metadata)
        return path


def _flat(values: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor in dictionaries and lists under a name such as `labels.1`."""
    if isinstance(values, Tensor):
        return {name: values.detach().to("cpu", copy=True).contiguous()}
    if isinstance(values, list | tuple):
        values = dict(enumerate(values))
    found: dict[str, Tensor] = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        found |= _flat(value, f"{name}.{key}" if name else str(key))
    return found
