"""SC-UNet's training: labels and edges side by side, each as important."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renalplan.dataset import DatasetDescription
from renalplan.errors import UsageError
from renalplan.networks.scunet import SCUNet as Network
from renalplan.trainers.edges import edge_targets
from renalplan.trainers.loop import fit
from renalplan.trainers.scunet import (
    EarlierStageSettings,
    SCUNet,
    SCUNetSettings,
    SCUNetStage,
)
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.supervised import SupervisedStage
from renalplan.trainers.task import TrainingTask

Make = Callable[..., TrainingTask]
LABELS = {"background": 0, "kidney": 1, "tumour": 2}


def _described(**values: Any) -> DatasetDescription:
    return DatasetDescription(channel_names={"0": "CT"}, **({"labels": LABELS} | values))


def _phase(task: TrainingTask, *settings: str) -> SCUNetStage:
    (phase,) = SCUNet(task, parse_settings(SCUNet.Settings, list(settings))).phases()
    assert isinstance(phase, SCUNetStage)
    phase.prepare(task)
    return phase


class Fixed(nn.Module):
    """Gives the outputs it was made with."""

    def __init__(self, *outputs: Tensor) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.outputs


def test_the_papers_settings_are_the_defaults() -> None:
    found = SCUNetSettings()
    assert (found.epochs, found.iterations) == (20, 200)  # 4000 iterations
    assert (found.optimizer, found.learning_rate, found.schedule) == ("adam", 1e-4, "constant")
    assert found.weight_decay == 0
    assert (found.loss.name, found.loss.threshold) == ("balanced_ce", 0.1)
    augmentation = found.augmentation
    assert augmentation.enabled
    assert augmentation.mirror
    assert not augmentation.intensity
    assert augmentation.rotation_probability == augmentation.scaling_probability == 0
    assert found.edges == "erosion"
    assert found.batch_size is None  # the plan's
    assert SCUNet.Settings is EarlierStageSettings


def test_adam_keeps_its_rate(make_task: Make) -> None:
    phase = _phase(make_task())
    optimizer = phase.optimizer(phase.build())
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-4
    assert [phase.rate(step, 4000) for step in (0, 2000, 3999)] == [1, 1, 1]


def test_patches_are_cropped_and_mirrored_and_nothing_else(make_task: Make) -> None:
    task = make_task()
    source = _phase(task, "batch_size=4").training_batches(task)
    values = [np.asarray(item.image[:]).ravel() for item in task.training_items(task.stages[0])]
    stored = set(np.concatenate(values).astype(np.float32)) | {0.0}  # zeros beyond the border
    mirrored = 0
    for step in range(4):
        batch = source.batch(step)
        assert batch["image"].shape == (4, 1, 8, 8, 8)
        assert set(batch["image"].ravel().tolist()) <= stored
        for sample in batch["image"]:
            mirrored += _is_mirrored(sample[0].numpy(), task)
    assert mirrored >= 8  # 7 of 8 are, along one axis or more


def _is_mirrored(patch: np.ndarray, task: TrainingTask) -> bool:
    """Whether a patch does not occur in its case as it stands."""
    for item in task.training_items(task.stages[0]):
        image = np.asarray(item.image[0]).astype(np.float32)
        for place in np.argwhere(image == patch[0, 0, 0]):
            cut = image[tuple(slice(a, a + n) for a, n in zip(place, patch.shape, strict=True))]
            if cut.shape == patch.shape and np.array_equal(cut, patch):
                return False
    return True


@pytest.mark.parametrize("method", ["erosion", "canny"])
def test_batches_hold_the_edges_of_their_labels(make_task: Make, method: str) -> None:
    task = make_task()
    settings = [f"edges={method}", "batch_size=6", "foreground_share=1"]
    batch = _phase(task, *settings).training_batches(task).batch(1)
    assert set(batch["labels"].unique().tolist()) == {0, 1, 2}
    expected = edge_targets(
        batch["labels"],
        ((1, 2), (2,)),  # the edge of the kidney runs around its tumour
        spacing=(2.0, 2.0, 2.0),
        method=method,  # type: ignore[arg-type]
    )
    assert batch["edges"].shape == (6, 2, 8, 8, 8)
    assert batch["edges"].dtype == torch.uint8
    assert torch.equal(batch["edges"], expected)
    assert expected.any()


def test_canny_is_another_edge_and_follows_the_slices(make_task: Make) -> None:
    task = make_task()
    eroded, drawn = (
        _phase(task, f"edges={method}").training_batches(task).batch(1)
        for method in ("erosion", "canny")
    )
    assert torch.equal(eroded["labels"], drawn["labels"])
    assert not torch.equal(eroded["edges"], drawn["edges"])
    # where the plan's last axis runs across the slices
    turned = replace(task, plan=task.plan.model_copy(update={"axes": ("x", "y", "z")}))
    source = _phase(turned, "edges=canny").training_batches(turned)
    expected = edge_targets(
        drawn["labels"], ((1, 2), (2,)), spacing=(2.0,) * 3, method="canny", slice_axis=2
    )
    batch = source.batch(1)
    assert torch.equal(batch["labels"], drawn["labels"])
    assert torch.equal(batch["edges"], expected)


def test_a_stage_that_keeps_each_scans_spacing_takes_the_first_items(make_task: Make) -> None:
    task = make_task()
    stages = tuple(
        stage.model_copy(update={"spacing": (None, 2.0, 2.0)}) for stage in task.plan.stages
    )
    own = replace(task, plan=task.plan.model_copy(update={"stages": stages}))
    assert own.stage_spacing(own.stages[0]) == (2.0, 2.0, 2.0)


def _balanced(logits: Tensor, target: Tensor, known: Tensor) -> float:
    """Balanced cross-entropy of softmax channels by hand, T = 0.1."""
    log_p = F.log_softmax(logits.double(), 1)
    terms = []
    for value in range(logits.shape[1]):
        member = (target[:, 0] == value) & known[:, 0]
        if member.any():
            p = log_p[:, value][member]
            terms.append(float(-(p * (p.exp() < 0.9)).sum() / member.sum()))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("ignore", [False, True], ids=["all known", "an ignore label"])
def test_the_loss_is_that_of_the_labels_plus_that_of_every_edge(
    make_task: Make, ignore: bool
) -> None:
    labels = LABELS | ({"ignore": 3} if ignore else {})
    task = make_task(description=_described(labels=labels))
    phase = _phase(task)
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1, 6, 6, 6)
    target = torch.randint(0, 4 if ignore else 3, shape, generator=generator).to(torch.int16)
    edges = torch.randint(0, 2, (2, 2, 6, 6, 6), generator=generator).to(torch.uint8)
    outputs = [3 * torch.randn(2, n, 6, 6, 6, generator=generator) for n in (3, 2, 2)]
    batch = {"image": torch.zeros(shape), "labels": target, "edges": edges}
    known = target != 3
    expected = _balanced(outputs[0], target, known)
    expected += sum(_balanced(outputs[1 + n], edges[:, n : n + 1], known) for n in range(2))
    found = phase.loss(Fixed(*outputs), batch, 0)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    if ignore:  # what is said there does not matter
        for output in outputs:
            output[:, 0][~known[:, 0]] += 5
        assert float(phase.loss(Fixed(*outputs), batch, 0)) == pytest.approx(float(found))


def test_the_edges_of_ignored_voxels_are_not_learned(make_task: Make) -> None:
    task = make_task(description=_described(labels=LABELS | {"ignore": 3}))
    source = _phase(task).training_batches(task)
    assert source.ignore == 3  # type: ignore[attr-defined]


def test_regions_have_a_sigmoid_and_an_edge_each(make_task: Make) -> None:
    labels = {"background": 0, "organ": [1, 2], "tumour": [2]}
    task = make_task(description=_described(labels=labels, regions_class_order=[1, 2]))
    trainer = SCUNet(task)
    (phase,) = trainer.phases()
    assert isinstance(phase, SCUNetStage)
    assert phase.network.arguments == {"in_channels": 1, "num_classes": 2, "edges": 2}
    phase.prepare(task)
    batch = phase.training_batches(task).batch(0)
    assert torch.equal(
        batch["edges"], edge_targets(batch["labels"], ((1, 2), (2,)), spacing=(2.0,) * 3)
    )
    # sure and right everywhere: nothing is left to learn
    values = batch["labels"]
    regions = torch.cat([(values > 0), (values == 2)], 1)
    right = 20 * (2 * regions.float() - 1)
    edges = [torch.cat([1 - e, e], 1).float() * 20 for e in batch["edges"].split(1, 1)]
    assert float(phase.loss(Fixed(right, *edges), batch, 0)) == 0
    assert float(phase.loss(Fixed(-right, *edges), batch, 0)) > 5
    assert float(phase.loss(Fixed(right, edges[0], -edges[1]), batch, 0)) > 5


def test_one_label_has_one_edge(make_task: Make) -> None:
    task = make_task(description=_described(labels={"background": 0, "kidney": 1}))
    (phase,) = SCUNet(task).phases()
    assert phase.network.arguments == {"in_channels": 1, "num_classes": 2, "edges": 1}  # type: ignore[attr-defined]


def test_it_learns_the_last_stage_and_the_plans_u_net_the_earlier_ones(make_task: Make) -> None:
    trainer = SCUNet(make_task("locate_fine"))
    locate, fine = trainer.phases()
    assert type(locate) is SupervisedStage
    assert locate.network.factory == "renalplan.networks.unet:UNet"
    assert locate.settings == EarlierStageSettings().earlier
    assert type(fine) is SCUNetStage
    assert isinstance(fine.build(), Network)
    assert trainer.segmenter().arguments["stages"] == {"locate": "locate", "fine": "fine"}
    # with the labels of the stage before among the channels
    *_, fullres = SCUNet(make_task("cascade")).phases()
    assert fullres.network.arguments["in_channels"] == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ("8,12,8", r"8 x 12 x 8 voxels.*second 12 \(nearest 8 or 16\)"),
        ("4,8,17", r"first 4 \(nearest 8\), third 17 \(nearest 16 or 24\)"),
    ],
)
def test_other_patches_are_refused_with_the_nearest_sizes(
    make_task: Make, patch: str, message: str
) -> None:
    settings = parse_settings(SCUNet.Settings, [f"patch_size={patch}"])
    with pytest.raises(UsageError, match=message):
        SCUNet(make_task(), settings).check()


@pytest.mark.parametrize("patch", ["8,8,8", "8,16,24", "24,8,8"])
def test_any_patch_that_the_poolings_allow_trains(make_task: Make, patch: str) -> None:
    task = make_task()
    settings = parse_settings(
        SCUNet.Settings,
        ["epochs=2", "iterations=2", "validation_iterations=1", f"patch_size={patch}"],
    )
    trainer = SCUNet(task, settings)
    trainer.check()
    (phase,) = trainer.phases()
    assert isinstance(phase, SCUNetStage)
    phase.prepare(task)
    fit(phase, task)
    rows = (phase.folder(task) / "log.csv").read_text().splitlines()
    assert len(rows) == 3
    assert "dice_tumour" in rows[0]
    size = [int(n) for n in patch.split(",")]
    stages = trainer.segmenter().arguments.get("patch_sizes")
    assert stages == (None if patch == "8,8,8" else {"whole": size})


def test_training_makes_the_loss_smaller(make_task: Make) -> None:
    """On one batch, over and over: labels and edges are learned together."""
    task = make_task()
    phase = _phase(task, "learning_rate=3e-3")
    torch.manual_seed(0)
    network = phase.build().train()
    batch = phase.training_batches(task).batch(1)
    optimizer = phase.optimizer(network)
    losses = []
    for step in range(25):
        loss = phase.loss(network, batch, step)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(
                p.grad is not None and p.grad.abs().sum() > 0
                for p in network.parameters()
                if p.dim() > 1
            )
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
