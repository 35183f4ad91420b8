"""What the planner expects of memory, and what a training step of every network holds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import renalplan.networks as package
from renalplan.labels import LabelScheme
from renalplan.networks import Autoencoder, DenseBiasNet, Encoder, SCUNet, UNet
from renalplan.networks.fdfe import FDFE
from renalplan.networks.live_memory import Batch, HalfPrecision, LiveBytes, step_bytes
from renalplan.networks.longskip import LongSkipFCN
from renalplan.networks.prototypes import PrototypeNetwork
from renalplan.planners.bisc import scunet_bytes
from renalplan.planners.memory import Architecture, training_bytes
from renalplan.planners.topology import Topology, plan_topology
from renalplan.trainers.cycle import CycleLoss
from renalplan.trainers.losses import DeepSupervision, DiceCrossEntropy

SCHEME = LabelScheme(names=("background", "a", "b"), values=((0,), (1,), (2,)))
EDGE = LabelScheme(names=("background", "edge"), values=((0,), (1,)))
WITHIN = 0.15
PATCH = (16, 32, 32)
Kind = tuple[Topology, Architecture]


def _unet(kind: Any, spacing: tuple[float, ...], patch: tuple[int, ...], **more: int) -> Kind:
    values = {"base_features": 8, "max_features": 80, "channels": 1, "heads": 3} | more
    topology = plan_topology(spacing, patch)
    return topology.as_3d(), Architecture(kind=kind, **values)


def _build(topology: Topology, network: Architecture) -> UNet:
    return UNet(
        network.inputs,
        network.heads,
        features=network.features(topology.stages),
        strides=topology.strides,
        kernels=topology.kernels,
        kind=network.kind,
        blocks=network.blocks(topology.stages),
        convs_per_stage=network.convs_per_stage,
    )


def _sgd(network: nn.Module) -> torch.optim.Optimizer:
    trained = [p for p in network.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)


def _batch(samples: int, patch: tuple[int, ...] = PATCH, channels: int = 1) -> Batch:
    return {
        "image": torch.zeros(samples, channels, *patch, device="meta"),
        "labels": torch.zeros(samples, 1, *patch, device="meta", dtype=torch.int16),
    }


def _supervised(network: nn.Module, batch: Batch) -> Tensor:
    """Dice + cross-entropy, deeply supervised."""
    criterion = _on(batch, DeepSupervision(DiceCrossEntropy(SCHEME)))
    result: Tensor = criterion(network(batch["image"]), batch["labels"])
    return result


def _with_edges(network: nn.Module, batch: Batch) -> Tensor:
    labels, *edges = network(batch["image"])
    total: Tensor = _on(batch, DiceCrossEntropy(SCHEME))(labels, batch["labels"])
    for edge in edges:
        total = total + _on(batch, DiceCrossEntropy(EDGE))(edge, batch["labels"])
    return total


def _restored(network: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(network(batch["image"]).float(), batch["image"])


def _on(batch: Batch, criterion: nn.Module) -> nn.Module:
    return criterion.to(batch["image"].device)


# every network that is trained, its loss and the patch
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Batch], Tensor]]] = {
    "plain U-Net": (lambda: _build(*_unet("plain", (1, 1, 1), PATCH)), _supervised),
    "residual U-Net": (lambda: _build(*_unet("residual", (1, 1, 1), PATCH)), _supervised),
    "DenseBiasNet": (lambda: DenseBiasNet(1, 3), _supervised),
    "DenseBiasNet, checkpointing": (lambda: DenseBiasNet(1, 3, checkpointing=True), _supervised),
    "DPA-DenseBiasNet": (lambda: DenseBiasNet(1, 3, priors=(16, 32, 64, 128)), _supervised),
    "autoencoder": (lambda: Autoencoder(1), _restored),
    "SC-UNet": (lambda: SCUNet(1, 3), _with_edges),
    "FDFE": (lambda: FDFE(1), lambda n, b: n(b["image"]).square().mean()),
    "FDFE, no decoder": (lambda: FDFE(1, decoding=False), lambda n, b: n(b["image"]).square().mean()),
    "LongSkipFCN": (lambda: LongSkipFCN(1, 3, (8, 16, 32), [(1, 2, 2), (2, 2, 2)]), _supervised),
}  # fmt: skip
# FDFE with what was pooled from its features; a part of the autoencoder and of FDFE
NOT_TRAINED = {PrototypeNetwork, Encoder}


def test_no_network_is_left_out() -> None:
    named = {getattr(package, name) for name in package.__all__}
    networks = {kind for kind in named if isinstance(kind, type) and issubclass(kind, nn.Module)}
    assert networks <= {type(build()) for build, _ in NETWORKS.values()} | NOT_TRAINED
    assert len(networks) >= 5


@pytest.mark.parametrize("name", NETWORKS)
def test_the_count_without_computing_is_what_a_step_holds(name: str) -> None:
    build, loss = NETWORKS[name]
    estimate = step_bytes(build, _batch(2), loss, _sgd, half=False)
    batch = {key: torch.zeros_like(value, device="cpu") for key, value in _batch(2).items()}
    measured = step_bytes(build, batch, loss, _sgd, half=False, device="cpu")
    assert estimate == pytest.approx(measured, rel=WITHIN)


@pytest.mark.parametrize("name", ["plain U-Net", "LongSkipFCN"])
def test_half_precision_is_counted_as_autocast_computes_it(name: str) -> None:
    build, loss = NETWORKS[name]

    class Autocast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = build()

        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                found = self.network(x)
            return [f.float() for f in found] if isinstance(found, list) else found.float()

    batch = {key: torch.zeros_like(value, device="cpu") for key, value in _batch(2).items()}
    measured = step_bytes(Autocast, batch, loss, _sgd, half=False, device="cpu")
    estimate = step_bytes(build, _batch(2), loss, _sgd, half=True)
    assert estimate == pytest.approx(measured, rel=WITHIN)
    assert estimate < 0.8 * step_bytes(build, _batch(2), loss, _sgd, half=False)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize(
    ("spacing", "patch", "more"),
    [
        ((1, 1, 1), (64, 64, 64), {}),
        ((1, 1, 1), (32, 32, 32), {"base_features": 32, "max_features": 320}),
        ((1, 1, 1), (32, 32, 32), {"base_features": 12, "max_features": 96}),
        ((5, 1, 1), (16, 96, 96), {"base_features": 32, "max_features": 320, "channels": 4}),
        ((1, 1), (128, 128), {"base_features": 32, "max_features": 512}),
        ((1, 1, 1), (32, 48, 48), {"base_features": 4, "max_features": 8}),
    ],
    ids=["cube", "wide", "demo", "thick", "flat", "narrow"],
)
def test_the_planners_sum_is_the_count(
    kind: Any, spacing: Any, patch: Any, more: dict[str, int], batch_size: int
) -> None:
    topology, network = _unet(kind, spacing, patch, **more)
    batch = _batch(batch_size, topology.patch, network.inputs)
    counted = step_bytes(lambda: _build(topology, network), batch, _supervised, _sgd, half=True)
    assert training_bytes(topology, network, batch_size) == pytest.approx(counted, rel=WITHIN)


@pytest.mark.parametrize("heads", [2, 3])
def test_the_sum_for_sc_unet_is_the_count(heads: int) -> None:
    def loss(network: nn.Module, batch: Batch) -> Tensor:
        labels, *edges = network(batch["image"])
        total: Tensor = torch.zeros((), device=labels.device)
        for logits in (labels, *edges):
            names = tuple("abc"[: logits.shape[1]])
            scheme = LabelScheme(names=names, values=tuple((n,) for n in range(len(names))))
            total = total + _on(batch, DiceCrossEntropy(scheme))(logits, batch["labels"])
        return total

    def build() -> nn.Module:
        return SCUNet(1, heads)

    counted = step_bytes(build, _batch(2, (32, 64, 64)), loss, _sgd, half=True)
    expected = scunet_bytes(32 * 64 * 64, heads, 2)
    assert expected == pytest.approx(counted, rel=WITHIN)


def test_live_bytes_are_those_of_a_step_counted_by_hand() -> None:
    live = LiveBytes()
    with live:
        a = torch.zeros(1000)  # 4000 bytes
        b = a.view(10, 100)  # the same ones
        c = b + 1  # 4000 more
        assert b.shape == (10, 100)
        assert live.now == 8000
        del a, b
        d = c[:1].clone()  # 400
        assert live.now == 4400
        del c
        assert live.now == 400
    assert live.peak == 8000
    assert d.shape == (1, 100)


def test_a_tensor_of_before_counts_once() -> None:
    live, given = LiveBytes(), torch.zeros(100)
    live.add(given)
    live.add(given[:50])
    with live:
        _ = given.mul_(2)
    assert (live.now, live.peak) == (400, 400)


def test_half_precision_has_cudas_rules() -> None:
    x = torch.zeros(1, 4, 4, 4, 4)
    weight = nn.Parameter(torch.zeros(4, 4, 1, 1, 1))
    with HalfPrecision():
        convolved = F.conv3d(x, weight)
        assert convolved.dtype == torch.bfloat16
        assert F.instance_norm(convolved).dtype == torch.bfloat16
        assert F.group_norm(convolved, 2).dtype == torch.float32
        assert torch.cat((convolved, x)).dtype == torch.float32
        assert torch.cat((convolved, convolved)).dtype == torch.bfloat16
        assert convolved.log_softmax(1).dtype == torch.float32
    convolved.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32


def test_an_episode_of_cpnet_is_counted_too() -> None:
    cycle = CycleLoss(SCHEME, (1, 1, 1))

    def loss(network: nn.Module, batch: Batch) -> Tensor:
        result: Tensor = _on(batch, copy.deepcopy(cycle))(network, batch)
        return result

    batch = _batch(1) | {f"support_{key}": value for key, value in _batch(2).items()}
    measured = {key: torch.zeros_like(value, device="cpu") for key, value in batch.items()}
    found = step_bytes(lambda: FDFE(1), batch, loss, _sgd, half=False)
    assert found == pytest.approx(
        step_bytes(lambda: FDFE(1), measured, loss, _sgd, half=False, device="cpu"), rel=WITHIN
    )
    assert found > 4 * 3 * prod(PATCH) * 32  # three volumes of features at least
