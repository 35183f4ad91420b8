"""A trained phase's answer about a stored item is its network's, decided as the labels ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from renalplan.dataset import DatasetDescription
from renalplan.geometry import whole_box
from renalplan.model_folder import WEIGHTS, build_network
from renalplan.plan import NetworkSpec
from renalplan.store import ItemArrays, write_item
from renalplan.trainers.item_predictor import ItemPredictor
from renalplan.trainers.phase import save_weights
from renalplan.trainers.task import TrainingTask

PLAIN: dict[str, Any] = {"background": 0, "kidney": 1, "tumour": 2}
REGIONS: dict[str, Any] = {"background": 0, "kidney": [1, 2], "tumour": 2}


@pytest.mark.parametrize("regions", [False, True])
def test_the_answer_is_the_networks(make_task: Callable[..., TrainingTask], regions: bool) -> None:
    description = DatasetDescription(
        channel_names={"0": "CT"},
        labels=REGIONS if regions else PLAIN,
        regions_class_order=[1, 2] if regions else None,
    )
    task = make_task(description=description)
    (stage,) = task.stages
    heads = task.scheme.heads
    spec = NetworkSpec(
        factory=stage.network.factory,
        arguments={**stage.network.arguments, "in_channels": 1, "heads": heads},
    )
    torch.manual_seed(1)
    network = build_network(spec, "test").eval()
    save_weights(task.fold_folder / stage.name / WEIGHTS, network)
    # as large as a patch, so that there is one window
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype(np.float16)
    stored = write_item(
        task.stores, "new.0", image.astype(np.float32), None, whole_box((8, 8, 8)), task.scheme
    )
    answer = ItemPredictor(task, stage, spec)(ItemArrays(task.stores, stored, "new"))
    with torch.inference_mode():
        logits = network(torch.from_numpy(image.astype(np.float32))[None])
    logits = (logits[0] if isinstance(logits, list | tuple) else logits)[0].numpy()
    if regions:
        expected = np.where(logits[1] > 0, 2, np.where(logits[0] > 0, 1, 0))
    else:
        expected = logits.argmax(0)
    assert answer.dtype == np.int16
    assert (answer == expected).mean() > 0.99  # ties within single precision aside
    assert len(np.unique(answer)) > 1
