"""Branches share all but the third upsampling group; evaluation computes the labels' alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from renalplan.networks.scunet import SCUNet

SMALL = (4, 8, 12, 16)


def _small(num_classes: int = 3, **arguments: Any) -> SCUNet:
    torch.manual_seed(0)
    return SCUNet(1, num_classes, **({"widths": SMALL} | arguments))


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _input() -> Tensor:
    return torch.randn(2, 1, 8, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("num_classes", "arguments", "expected"),
    [
        (3, {}, 1_516_583),
        (3, {"widths": (32, 64, 128, 256)}, 6_060_615),
        (3, {"edges": 0}, 1_461_027),  # the 3-D U-Net without edges
        (5, {}, 1_572_173),
    ],
)
def test_parameter_count(num_classes: int, arguments: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        network = SCUNet(1, num_classes, **arguments)
    assert _count(network) == expected


def test_a_branch_is_a_group_and_a_head() -> None:
    with torch.device("meta"):
        network = SCUNet(1, 3)
    group = 27 * (32 + 16) * 16 + 27 * 16 * 16 + 2 * 16 + 2 * 2 * 16  # biases; norms
    counts = [_count(branch) for branch in network.branches]
    assert counts == [group + 17 * 3, group + 17 * 2, group + 17 * 2]


@pytest.mark.parametrize(
    ("num_classes", "edges", "channels"),
    [(3, None, [3, 2, 2]), (3, 1, [3, 2]), (2, 0, [2]), (1, None, [1]), (2, 3, [2, 2, 2, 2])],
)
def test_training_returns_labels_then_edges(
    num_classes: int, edges: int | None, channels: list[int]
) -> None:
    logits = _small(num_classes, edges=edges)(_input())
    assert [tuple(each.shape) for each in logits] == [(2, n, 8, 16, 24) for n in channels]


def test_evaluation_returns_the_labels_and_computes_no_edge() -> None:
    network = _small()
    x = _input()
    first = network(x)[0]

    def _never(*_: Any) -> None:
        raise AssertionError("an edge branch was computed")

    for branch in network.branches[1:]:
        branch.register_forward_hook(_never)
    labels = network.eval()(x)
    assert isinstance(labels, Tensor)
    torch.testing.assert_close(labels, first)  # group norm has no running state


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_gradient_of_one_branch_reaches_what_is_shared_and_no_other_branch(chosen: int) -> None:
    network = _small()
    (network(_input())[chosen] ** 3).mean().backward()
    shared = [network.encoder, network.bottom, network.decoder, network.branches[chosen]]
    for module in shared:
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    for number, branch in enumerate(network.branches):
        if number != chosen:
            assert all(parameter.grad is None for parameter in branch.parameters())


def test_each_branch_has_its_own_skip_from_the_first_group() -> None:
    network = _small()
    seen: dict[Any, Tensor] = {}

    def _keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = output if module is network.encoder[0] else inputs[0]

    for module in (network.encoder[0], *network.branches):
        module.register_forward_hook(_keep)
    x = _input()
    before = network(x)
    for branch in network.branches:
        assert torch.equal(seen[branch][:, SMALL[1] :], seen[network.encoder[0]])
    first: Any = network.branches[1].get_submodule("0.0.0")  # the first convolution
    with torch.no_grad():
        first.weight[:, SMALL[1] :] = 0  # cuts this branch's skip
    after = network(x)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [True, False, True]


def test_channels_last_gives_the_same() -> None:
    network = _small().eval()
    x = _input()
    expected = network(x)
    # torch's own mypy stubs know the 3-D format only for tensors
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    result = network(x.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_arguments_survive_json() -> None:
    arguments = json.loads(json.dumps({"edges": 2, "widths": SMALL}))
    torch.manual_seed(0)
    network = SCUNet(1, 3, **arguments)
    twin = _small()
    for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("shape", [(8, 8, 12), (4, 8, 8), (9, 16, 16)])
def test_sizes_that_do_not_survive_the_poolings_are_refused(shape: tuple[int, ...]) -> None:
    network = _small()
    assert network.divisor == (8, 8, 8)
    with pytest.raises(ValueError, match="the input of SCUNet"):
        network(torch.zeros(1, 1, *shape))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"edges": -1}, "edges must be at least 0"),
        ({"widths": (4, 8, 16)}, "4 resolutions"),
        ({"widths": (4, 8, 12, 18)}, "multiples of 4"),
        ({"widths": (0, 8, 12, 16)}, "multiples of 4"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**changes)
