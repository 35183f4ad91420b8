"""What a trained phase says about stored items: for cascades, regions and pseudo labels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from renalplan.inference.engines.torch_engine import TorchEngine
from renalplan.inference.options import choose_device
from renalplan.inference.segmenters.staged import one_hot
from renalplan.inference.sliding_window import WindowPredictor
from renalplan.labels import LabelScheme
from renalplan.model_folder import WEIGHTS, build_network
from renalplan.plan import NetworkSpec, StagePlan
from renalplan.store import ItemArrays
from renalplan.trainers.beside import previous_labels
from renalplan.trainers.task import TrainingTask


class ItemPredictor:
    """Predicts stored items of a stage with the network that the fold has trained for it.

    Attributes:
        stage: The plan's stage.
        scheme: What its labels mean.
    """

    def __init__(
        self,
        task: TrainingTask,
        stage: StagePlan,
        network: NetworkSpec,
        *,
        phase: str | None = None,
        scheme: LabelScheme | None = None,
    ) -> None:
        """Load the network.

        Args:
            task: Its fold must have trained it.
            stage: The plan's stage.
            network: How it is built.
            phase: Which phase trained it; the one of the stage's name if None.
            scheme: What its heads mean; the stage's labels if None.
        """
        from safetensors.torch import load_file

        phase = phase or stage.name
        built = build_network(network, f"phase {phase}")
        built.load_state_dict(load_file(task.fold_folder / phase / WEIGHTS))
        self.stage = stage
        self.scheme = scheme or task.scheme_of(stage)
        self._previous = previous_labels(task, stage)
        self._labels = task.scheme
        self._predict = WindowPredictor(
            [TorchEngine(built.eval(), choose_device(task.hardware.device))],
            stage.patch_size,
            self.scheme.heads,
        )

    def __call__(self, item: ItemArrays) -> NDArray[np.int16]:
        """The item's label map along the plan's axes, of the item's shape."""
        image = item.whole_image()
        if self._previous is not None:
            before = one_hot(self._previous.whole(item), self._labels)
            image = np.concatenate([image, before])
        logits = self.logits(image)
        outputs = logits.sigmoid() if self.scheme.has_regions else logits
        return self.scheme.decide(outputs.numpy()).astype(np.int16)

    def logits(self, image: NDArray[np.float32]) -> torch.Tensor:
        """Logits (heads, z, y, x) of an image (channels, z, y, x) of the stage's store.

        A cascade's second stage wants the one-hot labels of the stage before as further channels.
        """
        return self._predict(torch.from_numpy(image))
