from __future__ import annotations

import json
import weakref
from copy import deepcopy
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from renalplan.networks import densebiasnet
from renalplan.networks.autoencoder import Autoencoder
from renalplan.networks.densebiasnet import LEVELS, WIDTHS, Copies, DenseBiasNet

PRIORS = (16, 32, 64, 128)
LEVEL_OF = {64: 0, 32: 1, 16: 2, 8: 3}  # by size
SOURCES = range(12)  # layers 12 and 13 have no later layer that does not read them whole


def _trainable(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _network(in_channels: int = 1, classes: int = 3, **arguments: Any) -> DenseBiasNet:
    torch.manual_seed(0)
    network = DenseBiasNet(in_channels, classes, **arguments)
    for convolution in network.compress:  # biases start at 0, where one forgotten would not show
        nn.init.normal_(convolution.bias)
    return network


def _inputs_of_layers(network: DenseBiasNet, x: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    hooks = [
        layer[0].register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        for layer in network.layers
    ]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return seen


def _to_level(maps: Tensor, level: int, target: int) -> Tensor:
    for _ in range(level, target):
        maps = nn.MaxPool3d(2)(maps)
    for _ in range(target, level):
        maps = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=True)(maps)
    return maps


def _reference(network: DenseBiasNet, x: Tensor) -> Tensor:
    """Eq. 1 as it stands in the paper: all layers kept, every copy made anew."""
    prior: dict[int, Tensor] = {}
    if network.prior_encoder is not None:
        prior = dict(zip((1, 3, 5, 7), network.prior_encoder(x), strict=True))
    maps: dict[int, Tensor] = {}
    for layer, level in enumerate(LEVELS):
        whole = _to_level(maps[layer - 1], LEVELS[layer - 1], level) if layer else x
        parts = [whole]
        for source in range(layer - 2, -1, -1):
            convolution = network.compress[source]
            short = nn.functional.conv3d(maps[source], convolution.weight, convolution.bias)
            parts.append(_to_level(short, LEVELS[source], level))
        if layer in prior:
            parts.append(prior[layer])
        convolution, norm, _ = network.layers[layer]
        y = nn.functional.conv3d(
            torch.cat(parts, 1), convolution.weight, convolution.bias, padding=1
        )
        y = nn.functional.group_norm(y, WIDTHS[layer] // 4, norm.weight, norm.bias)
        maps[layer] = y.clamp(min=0)
    return nn.functional.conv3d(maps[13], network.head.weight, network.head.bias)


@pytest.mark.parametrize(
    ("bias_maps", "expected"),
    [
        (1, 1_421_552),
        (2, 1_527_246),
        (4, 1_738_634),
        ("0.1r", 1_738_722),
        ("0.2r", 2_207_704),
    ],
)
def test_trainable_parameters(bias_maps: int | str, expected: int) -> None:
    with torch.device("meta"):
        assert _trainable(DenseBiasNet(1, 2, bias_maps)) == expected
        # the 27 weights a prior channel adds for each channel of the stage
        assert _trainable(DenseBiasNet(1, 2, bias_maps, PRIORS)) == expected + 587_520


def test_layers_read_what_the_layer_list_says() -> None:
    network = _network(bias_maps=4)
    expected = [1, 16, 20, 40, 44, 80, 84, 152, 156, 96, 100, 72, 76, 64]
    assert [layer[0].in_channels for layer in network.layers] == expected
    x = torch.randn(1, 1, 16, 8, 24)
    for layer, seen in enumerate(_inputs_of_layers(network, x)):
        step = 2 ** LEVELS[layer]
        assert seen.shape == (1, expected[layer], 16 // step, 8 // step, 24 // step)


@pytest.mark.parametrize(
    ("share", "maps"),
    [("0.1r", [1, 3, 6, 12]), ("0.2r", [3, 6, 12, 25]), (".01r", [1, 1, 1, 1]), (3, [3, 3, 3, 3])],
)
def test_share_is_rounded_down_to_at_least_one(share: int | str, maps: list[int]) -> None:
    with torch.device("meta"):
        network = DenseBiasNet(1, 2, share)
    counts = [convolution.out_channels for convolution in network.compress]
    assert counts == [each for each in (*maps, *maps[2::-1]) for _ in range(2)]
    assert densebiasnet.bias_map_count("0.29r", 100) == 29  # where 0.29 * 100 is just below 29


@pytest.mark.parametrize("arguments", [{}, {"bias_maps": "0.2r"}, {"priors": [4, 8, 12, 16]}])
@pytest.mark.parametrize("size", [(16, 16, 16), (8, 8, 16)])
def test_output_is_that_of_equation_1(
    arguments: dict[str, Any], size: tuple[int, int, int]
) -> None:
    network = _network(**arguments).double()
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        logits = network(x)
        assert logits.shape == (2, 3, *size)
        torch.testing.assert_close(logits, _reference(network, x))


def test_every_source_reaches_every_later_layer() -> None:
    network = _network(bias_maps=2)
    x = torch.randn(1, 1, 16, 16, 16)
    before = _inputs_of_layers(network, x)
    for source in SOURCES:
        silenced = deepcopy(network)
        for parameter in silenced.compress[source].parameters():
            nn.init.zeros_(parameter)
        after = _inputs_of_layers(silenced, x)
        for layer, (old, new) in enumerate(zip(before, after, strict=True)):
            if layer < source + 2:
                assert torch.equal(old, new)
                continue
            first = WIDTHS[layer - 1] + 2 * (layer - 2 - source)
            assert old[:, first : first + 2].any(), (source, layer)
            assert not new[:, first : first + 2].any(), (source, layer)


def test_gradient_reaches_every_layer() -> None:
    network = _network()
    network(torch.randn(2, 1, 16, 16, 16)).square().mean().backward()
    named = network.named_parameters()
    without = {name for name, p in named if p.grad is None or not p.grad.any()}
    assert without == {f"compress.{n}.{kind}" for n in (12, 13) for kind in ("weight", "bias")}


class TestCopies:
    def test_takes_follow_the_receivers(self) -> None:
        maps = torch.randn(1, 2, 8, 8, 8)
        copies = Copies(maps, 1, [1, 2, 3, 2, 1, 0])
        for level in (1, 2, 3, 2, 1, 0):
            torch.testing.assert_close(copies.take(), _to_level(maps, 1, level))

    def test_every_copy_is_made_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pool, upsample = Mock(wraps=densebiasnet.pool), Mock(wraps=densebiasnet.upsample)
        monkeypatch.setattr(densebiasnet, "pool", pool)
        monkeypatch.setattr(densebiasnet, "upsample", upsample)
        network = _network(bias_maps=1)
        network(torch.zeros(1, 1, 8, 8, 8))
        # whole maps at three borders each way; then each source once for every level it needs
        assert pool.call_count == 3 + 2 * (3 + 2 + 1)  # layers 0-1 for levels 1-3, 2-3, 4-5
        assert (
            upsample.call_count == 3 + 2 * (1 + 2 + 3) + 2 * 2 + 1 + 1
        )  # 2-3, 4-5, 6-7; 8-9; 10; 11

    def test_copies_are_freed_after_their_last_receiver(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[tuple[int, weakref.ref[Tensor]]] = []  # level, copy

        def watched(operation: Any) -> Any:
            def call(x: Tensor) -> Tensor:
                y = operation(x)
                # only a copy made of a compressed map has this one channel
                if y.shape[1] == 1:
                    made.append((LEVEL_OF[y.shape[2]], weakref.ref(y)))
                return y

            return call

        monkeypatch.setattr(densebiasnet, "pool", watched(densebiasnet.pool))
        monkeypatch.setattr(densebiasnet, "upsample", watched(densebiasnet.upsample))
        network = _network(bias_maps=1)
        for convolution in network.compress:
            convolution.register_forward_hook(
                lambda _m, _i, y: made.append((LEVEL_OF[y.shape[2]], weakref.ref(y)))
            )
        alive: list[list[int]] = []  # before each layer's convolution, copies at each level
        for layer in network.layers:
            layer.register_forward_pre_hook(
                lambda _m, _i: alive.append(
                    [[at for at, copy in made if copy() is not None].count(n) for n in range(4)]
                )
            )
        with torch.no_grad():
            network(torch.zeros(1, 1, 64, 8, 8))
        assert alive == _expected_alive()
        assert not any(copy() is not None for _, copy in made)
        assert max(map(sum, alive)) < len(made) / 2


def test_whole_maps_and_prior_features_are_freed_after_use() -> None:
    network = _network(priors=(4, 8, 8, 8))
    features: list[weakref.ref[Tensor]] = []
    whole: list[weakref.ref[Tensor]] = []
    alive: list[tuple[int, int]] = []  # before each layer's convolution
    assert network.prior_encoder is not None
    network.prior_encoder.register_forward_hook(
        lambda _m, _i, maps: features.extend(weakref.ref(each) for each in maps)
    )
    for layer in network.layers:
        layer.register_forward_pre_hook(
            lambda _m, _i: alive.append(
                (sum(f() is not None for f in features), sum(w() is not None for w in whole))
            )
        )
        layer.register_forward_hook(lambda _m, _i, y: whole.append(weakref.ref(y)))
    with torch.no_grad():
        network(torch.zeros(1, 1, 8, 8, 8))
    assert len(whole) == 14
    assert alive == [(n, 0) for n in (4, 3, 3, 2, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0)]


def _expected_alive() -> list[list[int]]:
    """From the layer list alone: a copy lives until its last receiver or the last copy of it."""
    lives: list[tuple[int, int, int]] = []  # level, first layer, first layer without it
    for source in SOURCES:
        own = LEVELS[source]
        receivers = {layer: LEVELS[layer] for layer in range(source + 2, 14)}
        first = {own: source + 1}  # compressed while the next layer reads it whole
        for level in range(4):
            beyond = [n for n, at in receivers.items() if own < level <= at or own > level >= at]
            if beyond:
                first[level] = min(beyond)
        for level, start in first.items():
            uses = [n for n, at in receivers.items() if at == level]
            for further in first:
                if abs(further - level) == 1 and abs(further - own) > abs(level - own):
                    uses.append(first[further])
            lives.append((level, start, max(uses)))
    return [
        [sum(at == level and start <= n < end for at, start, end in lives) for level in range(4)]
        for n in range(14)
    ]


class TestCheckpointing:
    def test_same_output_and_gradients(self) -> None:
        x = torch.randn(1, 1, 16, 16, 16, dtype=torch.float64)
        results = []
        for checkpointing in (False, True):
            network = _network(checkpointing=checkpointing, priors=(4, 8, 8, 8)).double()
            image = x.clone().requires_grad_()
            logits = network(image)
            logits.square().mean().backward()
            gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
            results.append((logits.detach(), image.grad, gradients))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)

    def test_less_is_kept_for_the_gradients(self) -> None:
        x = torch.randn(1, 1, 16, 16, 16)
        plain, saving = (_kept_bytes(_network(checkpointing=each), x) for each in (False, True))
        assert saving < 0.4 * plain


def _kept_bytes(network: nn.Module, x: Tensor) -> int:
    """Bytes autograd keeps of one forward pass, the parameters' not counted."""
    kept: dict[int, Any] = {}  # by address; the storage is held, so no address is used twice
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(x)
    assert logits.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


class TestPriors:
    def test_features_go_to_the_second_layers_of_the_way_down(self) -> None:
        x = torch.randn(1, 1, 16, 16, 16)
        without, with_ = _network(bias_maps=1), _network(bias_maps=1, priors=[4, 8, 12, 16])
        extra = [
            b[0].in_channels - a[0].in_channels
            for a, b in zip(without.layers, with_.layers, strict=True)
        ]
        assert extra == [0, 4, 0, 8, 0, 12, 0, 16, 0, 0, 0, 0, 0, 0]
        assert with_.prior_encoder is not None
        inputs = _inputs_of_layers(with_, x)
        for layer, features in zip((1, 3, 5, 7), with_.prior_encoder(x), strict=True):
            torch.testing.assert_close(inputs[layer][:, -features.shape[1] :], features)

    def test_another_prior_is_another_output(self) -> None:
        network = _network(priors=PRIORS).eval()
        autoencoder = Autoencoder(1, PRIORS)
        x = torch.randn(1, 1, 8, 8, 8)
        with torch.no_grad():
            before = network(x)
            assert network.prior_encoder is not None
            network.prior_encoder.load_state_dict(autoencoder.encoder.state_dict())
            assert not torch.allclose(before, network(x))
        assert any(name.startswith("prior_encoder.") for name in network.state_dict())

    def test_encoder_stays_frozen(self) -> None:
        network = _network(priors=(4, 8, 8, 8)).eval().train()
        encoder = network.prior_encoder
        assert encoder is not None
        assert network.training
        assert not any(module.training for module in encoder.modules())
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        whole = network.layers[1][0].weight.detach().clone()
        optimiser = torch.optim.AdamW(network.parameters(), lr=0.1)
        network(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
        optimiser.step()
        assert not torch.equal(whole, network.layers[1][0].weight)
        assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())

    def test_encoder_reads_the_first_channels_only(self) -> None:
        network = _network(3, priors=(4, 8, 8, 8), prior_channels=2)
        seen: list[Tensor] = []
        assert network.prior_encoder is not None
        network.prior_encoder.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
        x = torch.randn(1, 3, 8, 8, 8)
        network(x)
        assert torch.equal(seen[0], x[:, :2])


def test_channels_last_is_the_same_network() -> None:
    network = _network(2, priors=(4, 8, 8, 8)).double()
    x = torch.randn(2, 2, 16, 8, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = network(x)
        network.to(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(network(x.to(memory_format=torch.channels_last_3d)), expected)


def test_weights_start_as_he_says_and_compressions_keep_the_strength() -> None:
    torch.manual_seed(0)
    network = DenseBiasNet(1, 2)
    assert network.layers[8][0].weight.std().item() == pytest.approx(
        (2 / (27 * 152)) ** 0.5, rel=0.02
    )
    maps = torch.randn(1, 128, 8, 8, 8).clamp(min=0)
    ratio = network.compress[6](maps).square().mean() / maps.square().mean()
    assert 0.5 < ratio < 2


def test_arguments_survive_json() -> None:
    arguments = json.loads(
        json.dumps(
            {"bias_maps": "0.1r", "priors": PRIORS, "prior_channels": 1, "checkpointing": True}
        )
    )
    with torch.device("meta"):
        assert _trainable(DenseBiasNet(1, 2, **arguments)) == 1_738_722 + 587_520


def test_wrong_size_names_the_nearest() -> None:
    network = _network()
    assert network.divisor == (8, 8, 8)
    with pytest.raises(
        ValueError,
        match=r"input of DenseBiasNet .* first 4 \(nearest 8\), third 20 \(nearest 16 or 24\)",
    ):
        network(torch.zeros(1, 1, 4, 8, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"bias_maps": value}, "bias_maps must be")
            for value in (0, -1, True, 4.0, "4", "0r", "1.5r", "r", "0.1", "0.1r ", "-0.1r", None)
        ),
        ({"priors": [16, 32, 64]}, "priors must be 4 widths"),
        ({"priors": [16, 32, 64, 6]}, "multiple of 4"),
        ({"prior_channels": 1}, "priors is None"),
        ({"priors": PRIORS, "prior_channels": 3}, "between 1 and the 2 input channels"),
        ({"priors": PRIORS, "prior_channels": 0}, "between 1 and the 2 input channels"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseBiasNet(2, 2, **arguments)
