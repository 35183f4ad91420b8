"""What a trained phase says about stored items: for cascades, regions and pseudo labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from renalplan.inference.segmenter import choose_device
from renalplan.inference.sliding_window import WindowPredictor
from renalplan.model_folder import WEIGHTS, build_network
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers.task import TrainingTask


class ItemPredictor:
    """Predicts stored items of a stage with the network that the fold has trained for it.

    Attributes:
        stage: The plan's stage.
        scheme: What its labels mean.
    """

    def __init__(self, task: TrainingTask, stage: StagePlan, network: NetworkSpec) -> None:
        from safetensors.torch import load_file

        built = build_network(network, f"phase {stage.name}")
        built.load_state_dict(load_file(task.fold_folder / stage.name / WEIGHTS))
        self.stage = stage
        self.scheme = task.scheme_of(stage)
        self._predict = WindowPredictor(
            built.eval(),
            stage.patch_size,
            self.scheme.heads,
            device=choose_device(task.hardware.device),
        )

    def __call__(self, item: ItemArrays) -> NDArray[np.int16]:
        """The item's label map along the plan's axes, of the item's shape."""
        logits = self._predict(torch.from_numpy(np.asarray(item.image[:], np.float32)))
        outputs = logits.sigmoid() if self.scheme.has_regions else logits
        return self.scheme.decide(outputs.numpy()).astype(np.int16)
