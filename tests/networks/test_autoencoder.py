from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from renalplan.networks.autoencoder import Autoencoder, Encoder
from renalplan.networks.blocks import ConvGroupNorm


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _small(**arguments: object) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(**({"in_channels": 2, "widths": [4, 8, 8]} | arguments))  # type: ignore[arg-type]


def test_parameter_counts() -> None:
    network = Autoencoder(1)
    assert _count(network.encoder) == 879_696
    assert _count(network) - _count(network.encoder) == 436_145
    assert _count(network) == 1_315_841


def test_encoder_returns_every_stage_before_pooling() -> None:
    features = Encoder(2, (4, 8, 12, 16))(torch.randn(2, 2, 8, 16, 24))
    assert [tuple(each.shape) for each in features] == [
        (2, 4, 8, 16, 24),
        (2, 8, 4, 8, 12),
        (2, 12, 2, 4, 6),
        (2, 16, 1, 2, 3),
    ]


def test_encoder_stage_reads_the_pooled_stage_above() -> None:
    torch.manual_seed(0)
    encoder = Encoder(1, [4, 8])
    first, second = encoder(torch.randn(1, 1, 4, 4, 4))
    expected = encoder.stages[1](nn.MaxPool3d(2)(first))
    torch.testing.assert_close(second, expected)


@pytest.mark.parametrize("size", [(8, 8, 8), (4, 8, 12)])
def test_reconstruction_has_the_shape_of_the_image(size: tuple[int, int, int]) -> None:
    x = torch.randn(2, 2, *size)
    assert _small()(x).shape == x.shape


def test_everything_passes_through_the_code() -> None:
    # without skips a decoder that gets no code knows nothing of the image
    network = _small().eval()
    network.encoder.stages[-1].register_forward_hook(lambda _m, _i, code: torch.zeros_like(code))
    a, b = (network(torch.randn(1, 2, 8, 8, 8)) for _ in range(2))
    torch.testing.assert_close(a, b)


def test_output_is_linear() -> None:
    network = _small().eval()
    assert network(torch.randn(1, 2, 8, 8, 8)).min() < 0
    assert isinstance(network.output, nn.Conv3d)


def test_voxels_are_dropped_in_training_only() -> None:
    network = _small(dropout=0.5)
    seen: list[torch.Tensor] = []
    network.encoder.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 2, 8, 8, 8) + 1
    network.train()(x)
    network.eval()(x)
    training, evaluation = seen
    kept = training != 0
    assert 0.4 < kept.float().mean() < 0.6
    assert (kept[0, 0] != kept[0, 1]).any()  # single values, not whole channels
    torch.testing.assert_close(training[kept], 2 * x[kept])
    torch.testing.assert_close(evaluation, x)


def test_gradient_reaches_every_parameter() -> None:
    network = _small()
    x = torch.randn(2, 2, 8, 8, 8)
    nn.functional.mse_loss(network(x), x).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_it_learns_to_restore_one_image() -> None:
    network = _small()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    x = torch.zeros(1, 2, 8, 8, 8)
    x[:, :, 2:6, 2:6, 2:6] = 1
    losses = []
    for _ in range(40):
        loss = nn.functional.mse_loss(network(x), x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_weights_start_as_he_says() -> None:
    encoder = Encoder(1)
    convolution = encoder.stages[3][1][0]
    deviation = (2 / (27 * 128)) ** 0.5
    assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert not convolution.bias.any()
    output = Autoencoder(64, [64]).output
    assert output.weight.std().item() == pytest.approx((1 / 64) ** 0.5, rel=0.05)


def test_groups_have_four_channels() -> None:
    norm = ConvGroupNorm(3, 32)[1]
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == 8


def test_arguments_survive_json() -> None:
    arguments = json.loads(json.dumps({"in_channels": 1, "widths": (4, 8), "dropout": 0.1}))
    assert Autoencoder(**arguments).divisor == (2, 2, 2)


def test_wrong_size_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"input of Autoencoder .* second 10 \(nearest 8 or 16\)"):
        Autoencoder(1)(torch.zeros(1, 1, 8, 10, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": []}, "at least one stage"),
        ({"widths": [6]}, "multiple of 4"),
        ({"widths": [0]}, "multiple of 4"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**changes)
