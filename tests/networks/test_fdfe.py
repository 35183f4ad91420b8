"""FDFE: shapes, the layer list of the paper, features of either sign, skips that matter."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from renalplan.networks.fdfe import FDFE

Triple = tuple[int, int, int]


def _small(**arguments: Any) -> FDFE:
    torch.manual_seed(0)
    return FDFE(**({"in_channels": 2, "widths": [4, 8, 12], "features": 16} | arguments))


def _parameters(*layers: tuple[int, int]) -> int:
    """Weights and biases of 3x3x3 convolutions from a to b channels, scale and shift of their norms."""
    return sum(27 * a * b + b + 2 * b for a, b in layers)


ENCODER = [(1, 16), (16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
DECODER = [(128 + 64, 64), (64, 64), (64 + 32, 32), (32, 32), (32 + 16, 32), (32, 32)]


@pytest.mark.parametrize(
    ("decoding", "layers", "expected"),
    [(True, ENCODER + DECODER, 879_696 + 622_848), (False, ENCODER, 879_696)],
)
def test_parameters_are_those_of_the_layer_list(
    decoding: bool, layers: list[tuple[int, int]], expected: int
) -> None:
    network = FDFE(1, decoding=decoding)
    found = sum(p.numel() for p in network.parameters())
    assert found == _parameters(*layers) == expected
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv3d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == layers
    assert {m.kernel_size for m in convolutions} == {(3, 3, 3)}


@pytest.mark.parametrize("decoding", [True, False])
def test_every_convolution_has_its_group_norm(decoding: bool) -> None:
    kinds = (nn.Conv3d, nn.GroupNorm, nn.ReLU)
    layers = [m for m in FDFE(1, decoding=decoding).modules() if isinstance(m, kinds)]
    for convolution, norm in pairwise(layers):
        if isinstance(convolution, nn.Conv3d):
            assert isinstance(norm, nn.GroupNorm)
            assert norm.num_channels == convolution.out_channels
    relus = [m for m in layers if isinstance(m, nn.ReLU)]
    norms = [m for m in layers if isinstance(m, nn.GroupNorm)]
    assert len(relus) == len(norms) - 1
    assert isinstance(layers[-1], nn.GroupNorm)


@pytest.mark.parametrize(
    ("widths", "size", "coarse"),
    [
        ([4, 8], (2, 4, 6), (1, 2, 3)),
        ([4, 8, 12], (4, 8, 12), (1, 2, 3)),
        ([8, 4, 4, 16], (8, 16, 8), (1, 2, 1)),
    ],
)
def test_features_lie_on_the_images_grid_or_without_decoder_on_the_coarsest(
    widths: list[int], size: Triple, coarse: Triple
) -> None:
    x = torch.randn(2, 3, *size)
    fine = _small(in_channels=3, widths=widths)
    assert (fine.features, fine.stride) == (16, 1)
    assert fine(x).shape == (2, 16, *size)
    plain = _small(in_channels=3, widths=widths, decoding=False)
    assert (plain.features, plain.stride) == (widths[-1], 2 ** (len(widths) - 1))
    assert plain(x).shape == (2, widths[-1], *coarse)
    assert fine.divisor == plain.divisor == (plain.stride,) * 3


@pytest.mark.parametrize("decoding", [True, False])
def test_a_size_that_cannot_be_pooled_is_refused_with_the_nearest(decoding: bool) -> None:
    with pytest.raises(ValueError, match="the input of FDFE has 4 x 6 x 3 voxels") as caught:
        _small(decoding=decoding)(torch.zeros(1, 2, 4, 6, 3))
    text = str(caught.value)
    assert "a multiple of 4 x 4 x 4" in text
    assert "second 6 (nearest 4 or 8), third 3 (nearest 4)" in text
    assert "first" not in text.split("not:")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, it is 0"),
        ({"widths": [4]}, r"two resolutions or more, widths are \[4\]"),
        ({"widths": []}, r"two resolutions or more, widths are \[\]"),
        ({"widths": [4, 6]}, "multiple of 4.* it is 6"),
        ({"features": 10}, "multiple of 4.* it is 10"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**arguments)


@pytest.mark.parametrize("decoding", [True, False])
def test_features_take_either_sign(decoding: bool) -> None:
    found = _small(decoding=decoding)(torch.randn(1, 2, 8, 8, 8))
    for channel in found[0]:
        assert channel.min() < 0 < channel.max()


@pytest.mark.parametrize("decoding", [True, False])
def test_gradient_reaches_every_parameter(decoding: bool) -> None:
    network = _small(decoding=decoding)
    found = network(torch.randn(2, 2, 8, 8, 8))
    (found * torch.randn_like(found)).sum().backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def _without_skip(network: FDFE, level: int, x: Tensor) -> Tensor:
    """Features when the decoder, and it alone, gets zeros for the skip of a level."""
    skips = network.encoder(x)

    def silenced(_module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (joined,) = given
        kept = joined.shape[1] - skips[level].shape[1]
        assert torch.equal(joined[:, kept:], skips[level])
        return (torch.cat((joined[:, :kept], torch.zeros_like(skips[level])), 1),)

    block = network.decoder[len(skips) - 1 - level]
    handle = block.register_forward_pre_hook(silenced)
    found: Tensor = network(x)
    handle.remove()
    return found


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_skip_matters(level: int) -> None:
    network = _small(widths=[4, 8, 12, 16])
    x = torch.randn(1, 2, 8, 8, 16)
    with torch.no_grad():
        assert (network(x) - _without_skip(network, level, x)).abs().max() > 1e-3


def test_what_lies_deep_matters() -> None:
    network = _small()
    x = torch.randn(1, 2, 8, 8, 8)
    with torch.no_grad():
        before = network(x)
        network.bottom.register_forward_hook(lambda _m, _i, found: torch.zeros_like(found))
        assert (network(x) - before).abs().max() > 1e-3


def test_the_output_is_that_of_the_blocks_one_after_the_other() -> None:
    network = _small(widths=[4, 8, 12])

    def up(x: Tensor) -> Tensor:
        return nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)(x)

    x = torch.randn(2, 2, 8, 4, 8)
    first, second = network.encoder.stages
    with torch.no_grad():
        a = first(x)
        b = second(nn.MaxPool3d(2)(a))
        c = network.bottom(nn.MaxPool3d(2)(b))
        d = network.decoder[0](torch.cat((up(c), b), 1))
        e = network.decoder[1](torch.cat((up(d), a), 1))
        torch.testing.assert_close(network(x), e)
        plain = _small(widths=[4, 8, 12], decoding=False)
        plain.load_state_dict(
            {n: v for n, v in network.state_dict().items() if not n.startswith("decoder")}
        )
        (norm,) = [m for m in plain.bottom[1] if isinstance(m, nn.GroupNorm)]
        assert plain.bottom[1][-1] is norm
        torch.testing.assert_close(torch.relu(plain(x)), c)
