"""The 3-D network with one long skip: sizes, what reaches what, and that it learns."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from renalplan.networks.longskip import LongSkipFCN

FEATURES, STRIDES = [4, 8, 12], [[1, 2, 2], [2, 2, 2]]


def _network(**values: object) -> LongSkipFCN:
    torch.manual_seed(0)
    given: dict = {"in_channels": 2, "heads": 3, "features": FEATURES, "strides": STRIDES}
    return LongSkipFCN(**(given | values))


def test_logits_have_the_inputs_size() -> None:
    assert _network()(torch.rand(2, 2, 4, 8, 12)).shape == (2, 3, 4, 8, 12)


def _parameters(inputs: int, heads: int, features: list[int], volumes: list[int]) -> int:
    """By hand: 27 weights and a bias, scale and offset a map; transposed ones as large as strides."""

    def block(a: int, b: int) -> int:
        return 27 * a * b + 3 * b

    total = block(inputs, features[0]) + block(features[0], features[0])
    for above, here in pairwise(features):
        total += block(above, here) + block(here, here)
    for (here, below), volume in zip(pairwise(features), volumes, strict=True):
        total += volume * below * here + here + block(here, here)
    first = features[0]
    return total + block(2 * first, first) + block(first, first) + first * heads + heads


def test_it_has_the_parameters_its_description_says() -> None:
    counted = sum(p.numel() for p in _network().parameters())
    assert counted == _parameters(2, 3, FEATURES, [4, 8])


def test_there_is_one_skip_and_it_is_the_long_one() -> None:
    """Cut the way through the coarse resolutions, and then the skip."""
    network = _network().eval()
    image = torch.rand(1, 2, 4, 8, 8)
    whole = network(image)
    coarse = network.up[-1][0]
    with torch.no_grad():
        for parameter in coarse.parameters():
            parameter.zero_()
    by_skip_alone = network(image)
    assert not torch.allclose(whole, by_skip_alone)
    assert by_skip_alone.std() > 1e-3  # the finest features still arrive
    # nothing of the second resolution is handed over: what leaves it goes down
    with torch.no_grad():
        for parameter in network.down.parameters():
            parameter.add_(1.0)
    assert torch.equal(network(image), by_skip_alone)
    joined = network.last[0][0]
    assert isinstance(joined, nn.Conv3d)
    assert joined.in_channels == 2 * FEATURES[0]


def test_it_learns_a_threshold() -> None:
    network = _network(in_channels=1, heads=2)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    image = torch.rand(2, 1, 4, 8, 8)
    target = (image[:, 0] > 0.5).long()
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.head.parameters())


@pytest.mark.parametrize(
    "wrong", [{"features": [4], "strides": []}, {"strides": [[2, 2, 2]]}, {"features": [4, 8]}]
)
def test_lists_that_do_not_fit_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        _network(**wrong)


def test_it_is_a_public_network() -> None:
    from renalplan import networks

    assert networks.LongSkipFCN is LongSkipFCN
