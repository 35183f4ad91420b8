"""A batch in parts learns what the whole batch does: every loss, every kind of batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from renalplan.errors import TrainingError, UsageError
from renalplan.labels import LabelScheme
from renalplan.networks.live_memory import step_bytes
from renalplan.plan import NetworkSpec
from renalplan.trainers.cycle import CycleLoss
from renalplan.trainers.divisible import check_network, check_phases
from renalplan.trainers.episodes import EpisodeSource, SupportSource
from renalplan.trainers.fused import use_fused
from renalplan.trainers.losses import (
    DeepSupervision,
    LossSettings,
    OnLabels,
    SizeConstrainedCrossEntropy,
    VoxelWeightedCrossEntropy,
    build_loss,
    build_voxel_loss,
)
from renalplan.trainers.parts import Batch, SlicedSource, divided, share
from renalplan.trainers.phase import TrainedNetwork
from renalplan.trainers.sampling import BatchSource
from renalplan.trainers.step import BatchGradient
from renalplan.trainers.step_memory import phase_bytes, say_memory
from renalplan.trainers.supervised import Recipe, SupervisedStage
from renalplan.trainers.task import TrainingTask
from renalplan.trainers.unlabelled import ImageSource

PLAIN = LabelScheme(names=("background", "a", "b"), values=((0,), (1,), (2,)))
IGNORE = LabelScheme(names=("background", "a", "b"), values=((0,), (1,), (2,)), ignore=3)
REGIONS = LabelScheme(names=("whole", "part"), values=((1, 2), (2,)), region_values=(1, 2))
TWO = LabelScheme(names=("background", "a"), values=((0,), (1,)))
NAMES = ("dice_ce", "dice", "ce", "wce", "hra_ce", "hra_dice", "hra_mse", "balanced_ce")


class Phase(TrainedNetwork):
    """A phase of one loss, without data."""

    divides = True

    def __init__(self, criterion: Callable[..., Tensor]) -> None:
        super().__init__("phase", NetworkSpec(factory="nowhere:Nothing"))
        self.epochs = self.iterations = 1
        self.criterion = criterion

    def training_batches(self, task: TrainingTask) -> BatchSource:
        raise NotImplementedError

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        raise NotImplementedError

    def loss(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
        more = [batch["weights"]] if "weights" in batch else []
        return self.criterion(network(batch["image"]), batch["labels"], *more)


class Fabric:
    """What a step needs of Fabric on a CPU."""

    device = torch.device("cpu")

    @staticmethod
    def backward(loss: Tensor) -> None:
        loss.backward()


def _network(heads: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.Conv3d(4, heads, 1)
    ).double()


def _batch(scheme: LabelScheme, samples: int = 5, *, weights: bool = False) -> Batch:
    """Samples that differ: one has no foreground, one hardly a voxel that counts."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn((samples, 1, 6, 6, 6), generator=generator, dtype=torch.float64)
    last = max(scheme.all_values) + 1
    labels = torch.randint(0, last, (samples, 1, 6, 6, 6), generator=generator).to(torch.int16)
    labels[1] = 0
    if scheme.ignore is not None:
        labels[2, :, 1:] = scheme.ignore
    batch = {"image": image, "labels": labels}
    if weights:
        batch["weights"] = torch.randint(0, 3, labels.shape, generator=generator).double()
    return batch


def _both(phase: TrainedNetwork, batch: Batch, heads: int, parts: int) -> list[list[Tensor]]:
    """Loss and gradients of the whole batch, and of its parts."""
    found = []
    for number in (1, parts):
        network = _network(heads)
        loss = BatchGradient(phase, Fabric(), network, number)(batch, 0, 7)
        found.append([loss, *(p.grad for p in network.parameters() if p.grad is not None)])
    return found


def _assert_same(found: list[list[Tensor]]) -> None:
    whole, parts = found
    assert len(whole) == len(parts) > 1
    assert whole[0] != 0
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", [2, 3, 9])
@pytest.mark.parametrize("over_batch", [False, True])
@pytest.mark.parametrize("scheme", [PLAIN, IGNORE, REGIONS], ids=["plain", "ignore", "regions"])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_in_parts_is_that_of_the_whole_batch(
    name: Any, scheme: LabelScheme, over_batch: bool, parts: int
) -> None:
    loss = build_loss(scheme, LossSettings(name=name), over_batch=over_batch)
    _assert_same(_both(Phase(DeepSupervision(loss)), _batch(scheme), scheme.heads, parts))


@pytest.mark.parametrize("name", ["hra_ce", "hra_mse"])
def test_a_mean_over_hard_voxels_alone_too(name: Any) -> None:
    loss = build_loss(PLAIN, LossSettings(name=name, average="selected"))
    _assert_same(_both(Phase(loss), _batch(PLAIN), 3, 2))


@pytest.mark.parametrize(
    "loss", [VoxelWeightedCrossEntropy(largest=2), SizeConstrainedCrossEntropy(penalty=3)]
)
def test_losses_with_voxel_weights_too(loss: nn.Module) -> None:
    _assert_same(_both(Phase(OnLabels(loss, TWO)), _batch(TWO, weights=True), 2, 2))


def test_the_test_would_notice_sums_of_a_part_alone() -> None:
    class Forgetful(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            known = (labels > 0).double()
            return (logits[:, :1].square() * known).sum() / known.sum().clamp_min(1)

    with pytest.raises(AssertionError):
        _assert_same(_both(Phase(Forgetful()), _batch(PLAIN), 3, 2))


@pytest.mark.parametrize("reverse", ["soft", "hard"])
def test_an_episodes_queries_in_parts(reverse: Any) -> None:
    class Episodic(Phase):
        divides = True
        whole = ("support_image", "support_labels")

        def loss(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
            result: Tensor = self.criterion(network, batch)
            return result

    supports = _batch(IGNORE, 4)
    batch = _batch(IGNORE, 3)
    batch |= {f"support_{name}": values[[0, 3]] for name, values in supports.items()}
    cycle = CycleLoss(IGNORE, (1, 1, 1), theta=0.7, reverse=reverse, loss=build_voxel_loss(LossSettings(name="ce")))  # fmt: skip
    _assert_same(_both(Episodic(cycle), batch, 4, 2))


def test_a_mean_over_samples_needs_no_second_pass() -> None:
    calls = []

    class Counting(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            calls.append(torch.is_grad_enabled())
            return logits.square().mean()

    step = BatchGradient(Phase(Counting()), Fabric(), _network(3), 2)
    for _ in range(2):
        step(_batch(PLAIN), 0, 7)
    assert calls == [False, True, True, True, True]  # one look at the very first step


def test_a_whole_batch_in_one_part_is_untouched() -> None:
    batch, loss = _batch(PLAIN), build_loss(PLAIN, LossSettings())
    network = _network(3)
    value = BatchGradient(Phase(loss), Fabric(), network, 1)(batch, 0, 7)
    again = _network(3)
    expected = loss(again(batch["image"]), batch["labels"])
    expected.backward()
    assert value == expected
    for a, b in zip(network.parameters(), again.parameters(), strict=True):
        assert a.grad is not None
        assert torch.equal(a.grad, b.grad)


class _Small(nn.Sequential):
    """Has memory for two samples while it learns."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        result: Tensor = super().forward(x)
        return result


def test_memory_that_runs_out_divides_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    phase = Phase(build_loss(PLAIN, LossSettings(), over_batch=True))
    batch = _batch(PLAIN)
    small = _Small(*_network(3))
    step = BatchGradient(phase, Fabric(), small, None)
    found = [step(batch, 0, 7), *(p.grad for p in small.parameters() if p.grad is not None)]
    step(batch, 1, 8)
    assert step.parts == 4
    assert [r.getMessage().split(" it goes on in ")[1][:7] for r in caplog.records] == [
        "2 parts",
        "4 parts",
    ]
    network = _network(3)
    loss = BatchGradient(phase, Fabric(), network, 1)(batch, 0, 7)
    _assert_same([[loss, *(p.grad for p in network.parameters() if p.grad is not None)], found])


def test_memory_that_cannot_be_had_is_a_sentence() -> None:
    phase, batch = Phase(build_loss(PLAIN, LossSettings())), _batch(PLAIN)
    with pytest.raises(TrainingError, match=r"use --accumulate 2\."):
        BatchGradient(phase, Fabric(), _Small(*_network(3)), 1)(batch, 0, 7)

    class Other(Phase):
        def loss(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
            return super().loss(network, batch, step)

    step = BatchGradient(Other(build_loss(PLAIN, LossSettings())), Fabric(), _Small(*_network(3)), None)  # fmt: skip
    with pytest.raises(TrainingError, match="not known to fall into parts; lower batch_size"):
        step(batch, 0, 7)


def test_dropout_differs_between_parts_and_is_the_same_again() -> None:
    class Dropped(nn.Module):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            return logits.sum()

    seen: list[Tensor] = []

    def run() -> list[Tensor]:
        network = nn.Sequential(nn.Dropout(0.5))
        network.register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
        phase = Phase(Dropped())
        image = torch.ones((2, 1, 4, 4, 4), requires_grad=True)
        labels = torch.zeros((2, 1, 4, 4, 4))
        seen.clear()
        BatchGradient(phase, Fabric(), network, 2)({"image": image, "labels": labels}, 0, 7)
        return list(seen[-2:])

    first, again = run(), run()
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("samples", "world"), [(2, 2), (5, 2), (7, 3), (4, 1)])
def test_shares_are_the_batch(samples: int, world: int) -> None:
    shares = [share(samples, rank, world) for rank in range(world)]
    assert [place for part in shares for place in part] == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_batch_smaller_than_the_processes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"batch of 2 cannot be divided among 4 .*batch_size=4"):
        share(2, 0, 4)


def _same_samples(whole: BatchSource, kept: tuple[str, ...] = ()) -> None:
    parts = [whole.only(places) for places in (range(2), range(2, 3))]  # type: ignore[attr-defined]
    for step in range(2):
        batch = whole.batch(step)
        for name, values in batch.items():
            found = [part.batch(step)[name] for part in parts]
            if name in kept:
                assert all(torch.equal(values, part) for part in found)
            else:
                assert torch.equal(values, torch.cat(found)), name


def test_sources_of_shares_make_the_samples_of_the_whole(
    make_task: Callable[..., TrainingTask],
) -> None:
    task = make_task()
    stage = task.stages[-1]
    supervised = SupervisedStage("whole", stage, stage.network, Recipe(batch_size=3), 5)
    patches = supervised.patches(task, task.training_items(stage))
    _same_samples(patches)
    episodes = EpisodeSource(SupportSource(patches, ("kidney", "tumour")), patches)
    _same_samples(episodes, ("support_image", "support_labels"))
    images = ImageSource(
        items=patches.items, regions={}, patch=patches.patch, margin=patches.margin,
        batch_size=3, transform=patches.transform, seed=1,
    )  # fmt: skip
    _same_samples(images)
    sliced = SlicedSource(patches, range(1, 3), ())
    assert torch.equal(sliced.batch(0)["image"], patches.batch(0)["image"][1:])
    assert [len(part["image"]) for part in divided(patches.batch(0), 3, 2, ())] == [2, 1]


def test_a_share_reads_nothing_of_the_other_samples(
    make_task: Callable[..., TrainingTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    from renalplan.trainers.sampling import PatchSource

    task = make_task()
    stage = task.stages[-1]
    source = SupervisedStage("whole", stage, stage.network, Recipe(batch_size=4), 5).patches(
        task, task.training_items(stage)
    )
    read = []
    real = PatchSource.read
    monkeypatch.setattr(PatchSource, "read", lambda *given: read.append(1) or real(*given))
    source.only(range(3, 4)).batch(0)
    assert len(read) == 1


def test_phases_that_nobody_vouches_for_are_refused() -> None:
    class Own(SupervisedStage):
        def loss(self, network: nn.Module, batch: Batch, step: int) -> Tensor:
            return super().loss(network, batch, step) ** 2

    class Vouched(Own):
        divides = True

    def made(kind: type[SupervisedStage], batch: int) -> SupervisedStage:
        spec = NetworkSpec(factory="nowhere:Nothing")
        return kind("fine", None, spec, Recipe(batch_size=batch), 0)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match=r"phase fine \(Own\) cannot be trained with 2 processes"):
        check_phases([made(Own, 2)], 2, None)
    with pytest.raises(UsageError, match=r"with --accumulate 2: its loss is not known"):
        check_phases([made(Own, 2)], 1, 2)
    with pytest.raises(UsageError, match=r"phase fine: a batch of 2 cannot be divided among 3"):
        check_phases([made(SupervisedStage, 2)], 3, None)
    check_phases([made(Own, 2)], 1, None)
    check_phases([made(Vouched, 4)], 2, 2)
    for world, parts, most in ((2, 2, 1), (1, 3, 2)):
        with pytest.raises(UsageError, match=rf"--accumulate {parts}: .* give {most} at most"):
            check_phases([made(Vouched, 2)], world, parts)
    check_phases([made(Vouched, 2), made(Vouched, 3)], 1, 3)
    check_phases([made(SupervisedStage, 3)], 2, None)


def test_batch_norm_is_refused_in_parts() -> None:
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))
    with pytest.raises(UsageError, match="batch norm"):
        check_network(network, "fine", 2)
    check_network(network, "fine", 1)
    assert not BatchGradient(Phase(nn.MSELoss()), Fabric(), network, None).grows


@pytest.mark.parametrize("name", ["dice_ce", "balanced_ce", "hra_ce"])
def test_a_phases_memory_is_counted_without_harm(
    make_task: Callable[..., TrainingTask], name: Any
) -> None:
    task = make_task()
    stage = task.stages[-1]
    network = task_network(task)
    recipe = Recipe(batch_size=4, loss=LossSettings(name=name))
    phase = SupervisedStage("whole", stage, network, recipe, 5)
    phase.prepare(task)
    batch = phase.training_batches(task).batch(0)
    whole = phase_bytes(phase, batch, half=False)
    measured = step_bytes(
        phase.build, batch, lambda n, b: phase.loss(n, b, 0), phase.optimizer,
        half=False, device="cpu",
    )  # fmt: skip
    assert whole == pytest.approx(measured, rel=0.15)
    assert phase_bytes(phase, batch, half=True) < whole
    assert phase_bytes(phase, batch, half=False, parts=2) < 0.7 * whole
    assert torch.isfinite(phase.loss(phase.build(), batch, 0))  # it can still be trained


def test_memory_is_said_on_a_gpu_and_nothing_else_stops_for_it(
    make_task: Callable[..., TrainingTask],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = make_task()
    phase = SupervisedStage("whole", task.stages[-1], task_network(task), Recipe(), 5)
    phase.prepare(task)
    batch = phase.training_batches(task).batch(0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * 1024**3, 8 * 1024**3))
    with caplog.at_level("INFO", "renalplan"):
        say_memory(phase, batch, torch.device("cuda:0"), half=True, parts=1)
        assert "GB in tensors; 2.0 GB of 8.0 GB are free" in caplog.text
        caplog.clear()
        phase.criterion = nn.Linear(1, 1)  # cannot be called with what a loss is
        say_memory(phase, batch, torch.device("cuda:0"), half=True, parts=1)
        assert not caplog.records


def task_network(task: TrainingTask) -> NetworkSpec:
    """The plan's network with channels and heads."""
    spec = task.stages[-1].network
    return NetworkSpec(
        factory=spec.factory, arguments=spec.arguments | {"in_channels": 1, "heads": 3}
    )


def test_fused_optimizers_on_a_gpu_alone() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    sgd, adam = torch.optim.SGD([parameter], lr=0.1), torch.optim.AdamW([parameter])
    parameter.grad = torch.ones(3)
    adam.step()
    for optimizer in (sgd, adam):
        use_fused(optimizer, torch.device("cpu"))
        assert not optimizer.param_groups[0]["fused"]
        use_fused(optimizer, torch.device("cuda"))  # its state stays where the parameter is
        assert optimizer.param_groups[0]["fused"]
        assert optimizer.param_groups[0]["foreach"] is False
        before = parameter.detach().clone()
        optimizer.step()
        assert not torch.equal(before, parameter)


def test_every_phase_of_ours_can_be_divided() -> None:
    from renalplan.imports import trainer_entry_points
    from renalplan.trainers.registry import find_trainer

    for name in trainer_entry_points():
        find_trainer(name)  # imports its phases

    def below(kind: type[TrainedNetwork]) -> set[type[TrainedNetwork]]:
        return {kind}.union(*(below(sub) for sub in kind.__subclasses__()))

    ours = {kind for kind in below(TrainedNetwork) if kind.__module__.startswith("renalplan.")}
    assert len(ours) >= 7
    assert {kind.__name__ for kind in ours if not kind.divides} == {"TrainedNetwork"}
