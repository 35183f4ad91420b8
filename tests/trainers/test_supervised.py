"""What supervised training on patches can be told: optimizer, learning rate, loss, precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from renalplan.errors import UsageError
from renalplan.model_folder import WEIGHTS
from renalplan.trainers import loop
from renalplan.trainers.loop import choose_precision, make_fabric
from renalplan.trainers.losses import DeepSupervision, HardRegionCrossEntropy, OnLabels
from renalplan.trainers.settings import parse_settings
from renalplan.trainers.supervised import SupervisedSettings, SupervisedStage
from renalplan.trainers.task import Hardware, TrainingTask
from renalplan.trainers.unet import UNet

Make = Callable[..., TrainingTask]


@pytest.fixture
def phase(make_task: Make) -> Callable[..., SupervisedStage]:
    def make(*settings: str) -> SupervisedStage:
        task = make_task()
        (found,) = UNet(task, parse_settings(SupervisedSettings, list(settings))).phases()
        assert isinstance(found, SupervisedStage)
        found.prepare(task)
        return found

    return make


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ([], {0: 1.0, 250: 0.75**0.9, 500: 0.5**0.9, 999: 0.001**0.9}),
        (["schedule=poly"], {0: 1.0, 500: 0.5**0.9}),
        (["schedule=constant"], {0: 1.0, 500: 1.0, 999: 1.0}),
        (["schedule=time"], {0: 1.0, 500: 1 / 1.005, 999: 1 / 1.00999}),
        (["schedule=time", "time_decay=0.01"], {0: 1.0, 100: 0.5, 999: 1 / 10.99}),
        (["schedule=time", "time_decay=0"], {0: 1.0, 999: 1.0}),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    phase: Callable[..., SupervisedStage], settings: list[str], rates: dict[int, float]
) -> None:
    made = phase(*settings)
    assert {step: made.rate(step, 1000) for step in rates} == pytest.approx(rates)


@pytest.mark.parametrize(
    ("settings", "kind", "values"),
    [
        (
            [],
            torch.optim.SGD,
            {"lr": 1e-2, "momentum": 0.99, "nesterov": True, "weight_decay": 3e-5},
        ),
        (["momentum=0"], torch.optim.SGD, {"momentum": 0, "nesterov": False}),
        (
            ["optimizer=adam", "learning_rate=1e-4", "weight_decay=0"],
            torch.optim.Adam,
            {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0},
        ),
        (
            ["optimizer=adamw", "learning_rate=3e-3"],
            torch.optim.AdamW,
            {"lr": 3e-3, "betas": (0.9, 0.999), "weight_decay": 3e-5},
        ),
    ],
)
def test_the_optimizer_is_the_one_asked_for(
    phase: Callable[..., SupervisedStage],
    settings: list[str],
    kind: type[torch.optim.Optimizer],
    values: dict[str, object],
) -> None:
    found = phase(*settings).optimizer(nn.Linear(2, 2))
    assert type(found) is kind
    assert {name: found.defaults[name] for name in values} == values


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_what_is_frozen_stays_out_of_the_optimizer(
    phase: Callable[..., SupervisedStage], optimizer: str
) -> None:
    network = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 4))
    (group,) = phase(f"optimizer={optimizer}").optimizer(network).param_groups
    assert [p.shape for p in group["params"]] == [(4, 3), (4,)]


def test_the_loss_is_the_one_asked_for(phase: Callable[..., SupervisedStage]) -> None:
    found = phase("loss.name=hra_ce", "loss.threshold=0.3", "loss.average=selected").criterion
    assert isinstance(found, DeepSupervision)
    (single,) = (m for m in found.modules() if isinstance(m, OnLabels))
    (hard,) = (m for m in single.modules() if isinstance(m, HardRegionCrossEntropy))
    assert (hard.threshold, hard.average) == (0.3, "selected")


@pytest.mark.parametrize("name", ["dice_ce", "ce", "hra_ce", "hra_dice", "hra_mse", "balanced_ce"])
def test_every_loss_trains(make_task: Make, name: str) -> None:
    settings = [f"loss.name={name}", "epochs=1", "iterations=2", "validation_iterations=0"]
    task = make_task()
    UNet(task, parse_settings(SupervisedSettings, settings)).run()
    assert (task.fold_folder / "whole" / WEIGHTS).is_file()


# --- precision

CPU = Hardware(device="cpu", progress=False)


@pytest.mark.parametrize(
    ("precision", "name", "lightning"),
    [
        ("auto", "fp32", "32-true"),
        ("fp32", "fp32", "32-true"),
    ],
)
def test_the_cpu_computes_in_what_is_asked_for(precision: str, name: str, lightning: str) -> None:
    hardware = replace(CPU, precision=precision)  # type: ignore[arg-type]
    assert choose_precision(hardware) == name
    assert make_fabric(hardware)._precision.precision == lightning


@pytest.mark.parametrize(
    ("device", "has_bf16", "precision", "name"),
    [
        ("cuda", True, "auto", "bf16"),
        ("cuda:1", False, "auto", "fp16"),
        ("auto", True, "auto", "bf16"),
        ("auto", True, "fp16", "fp16"),
        ("cuda", True, "fp32", "fp32"),
    ],
)
def test_a_gpu_computes_in_half_unless_told(
    monkeypatch: pytest.MonkeyPatch, device: str, has_bf16: bool, precision: str, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)
    hardware = replace(CPU, device=device, precision=precision)  # type: ignore[arg-type]
    assert choose_precision(hardware) == name


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_half_precision_on_a_cpu_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str, precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware = replace(CPU, device=device, precision=precision)  # type: ignore[arg-type]
    for refuse in (choose_precision, make_fabric):
        with pytest.raises(UsageError, match=rf"--precision {precision} needs a GPU: .* use fp32"):
            refuse(hardware)


def test_in_half_precision_convolutions_are_half_and_weights_and_loss_single(
    make_task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does, on a CPU, which can do it but must not be trusted with it."""
    monkeypatch.setattr(loop, "choose_precision", lambda _: "bf16")
    settings = parse_settings(
        SupervisedSettings, ["epochs=1", "iterations=2", "validation_iterations=1"]
    )
    seen = []

    class Spy(SupervisedStage):
        def loss(
            self, network: nn.Module, batch: dict[str, torch.Tensor], step: int
        ) -> torch.Tensor:
            for module in network.modules():
                if isinstance(module, nn.Conv3d):
                    module.register_forward_hook(lambda *given: seen.append(given[2].dtype))
                    break
            found = super().loss(network, batch, step)
            assert found.dtype == torch.float32
            return found

    class SpyUNet(UNet):
        Stage = Spy

    task = make_task(hardware=CPU)
    SpyUNet(task, settings).run()
    assert set(seen) == {torch.bfloat16}
    from safetensors.torch import load_file

    weights = load_file(task.fold_folder / "whole" / WEIGHTS)
    assert {w.dtype for w in weights.values()} == {torch.float32}
    assert all(w.isfinite().all() for w in weights.values())
