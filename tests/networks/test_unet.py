from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from renalplan.networks.unet import ResidualBlock, UNet

SIX = (32, 64, 128, 256, 320, 320)
SIX_STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]]
FLAT: dict[str, Any] = {
    "features": [4, 8, 8],
    "strides": [[1, 1, 1], [1, 2, 2], [1, 2, 2]],
    "kernels": [[1, 3, 3]] * 3,
    "dims": 2,
}
THICK: dict[str, Any] = {
    "features": [4, 8, 8, 8],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
RESIDUAL: dict[str, Any] = {"kind": "residual", "convs_per_stage": 1}


def _count(network: UNet) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _small(heads: int = 3, **arguments: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(2, heads, **(THICK | arguments))


@pytest.mark.parametrize(
    ("first_kernel", "arguments", "expected"),
    [
        # dynamic-network-architectures 0.4.4: PlainConvUNet and ResidualEncoderUNet
        ([3, 3, 3], {}, 30_785_994),
        ([1, 3, 3], {}, 30_711_690),
        ([3, 3, 3], RESIDUAL | {"blocks": [1, 3, 4, 6, 6, 6]}, 101_940_170),
        ([1, 3, 3], RESIDUAL | {"blocks": [1, 3, 4, 6, 6, 6]}, 101_865_866),
    ],
)
def test_parameter_count_is_nnunets(
    first_kernel: list[int], arguments: dict[str, Any], expected: int
) -> None:
    with torch.device("meta"):
        network = UNet(1, 2, SIX, SIX_STRIDES, [first_kernel, *[[3, 3, 3]] * 5], **arguments)
    assert _count(network) == expected


@pytest.mark.parametrize("extra", [{}, RESIDUAL | {"blocks": [1, 2, 2, 2]}])
def test_training_returns_every_resolution_from_full_downwards(extra: dict[str, Any]) -> None:
    network = _small(**extra)
    logits = network(torch.randn(2, 2, 8, 32, 32))
    assert [tuple(each.shape) for each in logits] == [
        (2, 3, 8, 32, 32),
        (2, 3, 8, 16, 16),
        (2, 3, 4, 8, 8),
    ]


def test_evaluation_returns_full_resolution_only() -> None:
    network = _small().eval()
    x = torch.randn(1, 2, 8, 32, 32)
    logits = network(x)
    assert logits.shape == (1, 3, 8, 32, 32)
    first = network.train()(x)[0]
    torch.testing.assert_close(logits, first)  # instance norm has no running state


def test_without_deep_supervision_training_returns_one_tensor() -> None:
    logits = _small(deep_supervision=False)(torch.randn(1, 2, 8, 32, 32))
    assert logits.shape == (1, 3, 8, 32, 32)


def test_divisor_is_the_total_stride() -> None:
    assert _small().divisor == (4, 8, 8)
    assert UNet(1, 2, **FLAT).divisor == (1, 4, 4)


def test_flat_network_treats_slices_apart() -> None:
    torch.manual_seed(0)
    network = UNet(1, 2, **FLAT).eval()
    x = torch.randn(1, 1, 1, 16, 16)
    assert network(x).shape == (1, 2, 1, 16, 16)
    weights = [p for p in network.parameters() if p.dim() == 5]
    assert all(weight.shape[2] == 1 for weight in weights)


@pytest.mark.parametrize("extra", [{}, RESIDUAL | {"blocks": [1, 2, 2, 2]}])
def test_gradient_reaches_every_parameter(extra: dict[str, Any]) -> None:
    network = _small(**extra)
    for module in network.modules():
        if isinstance(module, ResidualBlock):  # starts as its skip alone; wake its convolutions
            torch.nn.init.ones_(module.second.norm.weight)
    logits = network(torch.randn(2, 2, 8, 32, 32))
    # biases before a norm have a gradient of 0 up to rounding: it subtracts what they add
    sum((each**3).mean() for each in logits).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_residual_block_starts_as_its_skip() -> None:
    network = _small(**RESIDUAL, blocks=[1, 2, 2, 2])
    block = network.encoder[1][1]  # no stride and no change of width: the skip is the identity
    x = torch.rand(1, 8, 4, 8, 8)  # positive, so the activation changes nothing
    torch.testing.assert_close(block(x), x)


def test_arguments_survive_json() -> None:
    arguments = json.loads(json.dumps(THICK | RESIDUAL | {"blocks": [1, 2, 2, 2]}))
    assert _count(UNet(1, 2, **arguments)) == _count(_small(2, **arguments)) - 4 * 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "dense"}, "kind must be"),
        ({"features": [4]}, "at least 2 stages"),
        ({"strides": [[1, 1, 1]]}, "strides has 1 entries for 4 stages"),
        ({"kind": "residual"}, "blocks has 0 entries"),
        ({"kernels": [[2, 3, 3]] * 4}, "odd"),
        ({"dims": 2}, "on axis 0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**changes)


def test_package_does_not_import_torch() -> None:
    code = (
        "import sys, renalplan.networks as n; assert 'torch' not in sys.modules; "
        "assert n.UNet.__name__ == 'UNet'; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_network_is_an_attribute_error() -> None:
    import renalplan.networks

    with pytest.raises(AttributeError, match="Nothing"):
        _ = renalplan.networks.Nothing
