"""Our convolution against PyTorch's own in double precision, and that it takes the fast way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from renalplan.networks.convolution import ONEDNN_FROM, Conv3d

CASES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "usual": ({"kernel_size": 3, "padding": 1}, (6, 7, 8)),
    "strided": ({"kernel_size": 3, "padding": 1, "stride": 2}, (7, 8, 9)),
    "uneven": ({"kernel_size": (1, 3, 3), "padding": (0, 1, 1), "stride": (1, 2, 2)}, (5, 8, 9)),
    "slice": ({"kernel_size": (1, 3, 3), "padding": (0, 1, 1)}, (1, 8, 8)),
    "dilated": ({"kernel_size": 3, "padding": 2, "dilation": 2}, (6, 7, 8)),
    "grouped": ({"kernel_size": 3, "padding": 1, "groups": 4}, (6, 7, 8)),
    "without bias": ({"kernel_size": 3, "padding": 1, "bias": False}, (6, 7, 8)),
    "tiny": ({"kernel_size": 3, "padding": 1}, (1, 1, 1)),
    "1x1x1": ({"kernel_size": 1}, (6, 7, 8)),
    "1x1x1, strided": ({"kernel_size": 1, "stride": 2}, (6, 7, 8)),
    "1x1x1, grouped": ({"kernel_size": 1, "groups": 2, "bias": False}, (6, 7, 8)),
}


def operators(run: Any) -> set[str]:
    """Names of the operators it called."""
    with profile() as seen:
        run()
    return {event.key for event in seen.key_averages()}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_double_precision(
    case: str, batch: int, channels_last: bool
) -> None:
    arguments, shape = CASES[case]
    torch.manual_seed(3)
    ours = Conv3d(8, 12, **arguments)
    exact = nn.Conv3d(8, 12, **arguments).double()
    exact.load_state_dict({name: value.double() for name, value in ours.state_dict().items()})
    x = torch.randn(batch, 8, *shape)
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)
    inputs = x.clone().requires_grad_(), x.double().requires_grad_()
    results = ours(inputs[0]), exact(inputs[1])
    torch.testing.assert_close(results[0].double(), results[1], rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(results[1])
    for result in results:
        (result * weights.to(result.dtype)).sum().backward()
    pairs = [(inputs[0].grad, inputs[1].grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(ours.parameters(), exact.parameters(), strict=True)]
    for found, expected in pairs:
        assert found is not None
        assert expected is not None
        assert found.layout == torch.strided
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 80])
def test_a_single_patch_never_goes_the_slow_way(channels: int) -> None:
    """Below and above the number from which PyTorch takes oneDNN of its own accord."""
    x = torch.randn(1, channels, 12, 24, 10, requires_grad=True)
    assert (x[0, :, :, :, 0].numel() > ONEDNN_FROM) == (channels == 80)
    convolution = Conv3d(channels, 4, 3, padding=1)

    def both_directions() -> None:
        convolution(x).sum().backward()

    def forward() -> None:
        with torch.no_grad():
            convolution(x)

    for run in (both_directions, forward):
        called = operators(run)
        assert "aten::mkldnn_convolution" in called
        assert not [name for name in called if "slow_conv" in name]


@pytest.mark.parametrize("batch", [1, 3])
def test_a_1x1x1_convolution_multiplies_channels_last_maps_where_they_lie(batch: int) -> None:
    x = torch.randn(batch, 16, 6, 8, 7).to(memory_format=torch.channels_last_3d)
    convolution = Conv3d(16, 4, 1).to(memory_format=torch.channels_last_3d)
    result = convolution(x.requires_grad_())
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    called = operators(lambda: convolution(x).sum().backward())
    assert not [name for name in called if "conv" in name]


def test_only_the_gradients_asked_for_are_made() -> None:
    convolution = Conv3d(4, 4, 3, padding=1)
    convolution.weight.requires_grad_(False)
    x = torch.randn(1, 4, 6, 6, 6)
    convolution(x).sum().backward()
    assert convolution.weight.grad is None
    assert convolution.bias is not None
    assert convolution.bias.grad is not None


def test_autocast_exporting_and_other_precisions_see_the_usual_convolution() -> None:
    convolution = Conv3d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 6, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolution(x).dtype == torch.bfloat16
    assert convolution.double()(x.double()).dtype == torch.float64
    convolution.float()
    exported = torch.export.export(convolution, (x,))
    called = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert called == {"aten.conv3d.default"}


def test_onednn_switched_off_is_respected() -> None:
    convolution, x = Conv3d(4, 4, 3, padding=1), torch.randn(1, 4, 6, 6, 6)

    def run() -> Tensor:
        with torch.backends.mkldnn.flags(enabled=False):
            return convolution(x)

    assert "aten::mkldnn_convolution" not in operators(run)
