from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from renalplan.networks.unet import UNet
from renalplan.planners.memory import (
    GB,
    Architecture,
    elements,
    parameters,
    saved_elements,
    training_bytes,
)
from renalplan.planners.patch import largest_batch, usable_gb
from renalplan.planners.topology import Topology, plan_topology

TOPOLOGIES = {
    "cube": plan_topology((1, 1, 1), (32, 32, 32)),
    "thick": plan_topology((5, 1, 1), (16, 64, 64)),
    "flat": plan_topology((1, 1), (64, 64)).as_3d(),
}


def _network(kind: Any, **changes: int) -> Architecture:
    values = {"base_features": 4, "max_features": 12, "channels": 2, "heads": 3}
    return Architecture(kind=kind, **(values | changes))


def _unet(topology: Topology, network: Architecture) -> UNet:
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


def _autograd_keeps(unet: UNet, topology: Topology, inputs: int) -> int:
    """Values that the backward pass keeps, parameters and per-channel statistics left out."""
    own = {p.untyped_storage()._cdata for p in unet.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.numel() >= 64 and tensor.dim() == 5 and storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no later tensor takes its place
        return tensor

    x = torch.zeros(1, inputs, *topology.patch, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = unet(x)
    assert logits
    return sum(storage.nbytes() // 4 for storage in kept.values())


@pytest.mark.parametrize(
    ("kind", "patch", "expected"),
    [
        ("plain", (128, 128, 128), 454_893_568),
        ("residual", (128, 128, 128), 559_517_696),
        ("plain", (96, 160, 160), 533_126_400),
        ("residual", (96, 160, 160), 655_996_800),
    ],
)
def test_elements_are_nnunets(kind: Any, patch: tuple[int, int, int], expected: int) -> None:
    network = _network(kind, base_features=32, max_features=320, channels=1, heads=4)
    topology = plan_topology((1, 1, 1) if patch[0] == 128 else (1, 0.78, 0.78), patch)
    assert elements(topology, network) == expected


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("shape", TOPOLOGIES)
def test_parameters_are_the_networks(kind: Any, shape: str) -> None:
    topology, network = TOPOLOGIES[shape], _network(kind)
    unet = _unet(topology, network)
    assert parameters(topology, network) == sum(p.numel() for p in unet.parameters())


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("shape", TOPOLOGIES)
def test_saved_elements_are_what_autograd_keeps(kind: Any, shape: str) -> None:
    topology, network = TOPOLOGIES[shape], _network(kind)
    with torch.device("meta"), torch.no_grad():
        unet = nn.Module.train(_unet(topology, network))
    measured = _autograd_keeps(unet, topology, network.inputs)
    assert saved_elements(topology, network) == measured


def test_label_channels_widen_only_the_input() -> None:
    topology = TOPOLOGIES["cube"]
    more = parameters(topology, _network("plain", label_channels=2))
    assert more - parameters(topology, _network("plain")) == 2 * 4 * 27


def test_bytes_grow_by_the_same_for_every_patch() -> None:
    topology, network = TOPOLOGIES["cube"], _network("plain")
    fixed, one, two = (training_bytes(topology, network, n) for n in (0, 1, 2))
    numbers = parameters(topology, network)
    assert two - one == one - 10 * numbers
    assert fixed == 14 * numbers  # weights, their copies, momentum and gradients, without a map


def test_forecast_stays_below_what_nnunet_publishes() -> None:
    # KiTS on an A100: 7.7 GB in all for 2 patches of 128^3; context and workspace are 1.7 to 3.3 GB
    topology = plan_topology((0.78, 0.78, 0.78), (128, 128, 128))
    network = _network("plain", base_features=32, max_features=320, channels=1, heads=4)
    assert 7.7 - 3.3 < training_bytes(topology, network, 2) / GB < 7.7 - 1.7


def test_reserve_is_a_quarter_up_to_three_gigabytes() -> None:
    tensors = 0.92  # of what is left
    assert usable_gb(8) == pytest.approx(6 * tensors)
    assert usable_gb(0.4) == pytest.approx(0.3 * tensors)
    assert usable_gb(40) == pytest.approx(37 * tensors)


def test_largest_batch_fills_the_memory() -> None:
    topology, network = TOPOLOGIES["cube"], _network("plain")
    batch = largest_batch(topology, network, 0.2, cap=1000)
    limit = 0.92 * 0.15 * GB
    assert training_bytes(topology, network, batch) <= limit
    assert training_bytes(topology, network, batch + 1) > limit
    assert largest_batch(topology, network, 0.2, cap=3) == 3
    assert largest_batch(topology, network, 1e-6, cap=3) == 0
