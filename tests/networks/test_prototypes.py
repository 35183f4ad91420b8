"""Masked average pooling, cosine classification, and the network that predicts with prototypes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from renalplan.model_folder import NetworkSpec, build_network
from renalplan.networks.prototypes import (
    PrototypeNetwork,
    cosine_classify,
    enlarge,
    masked_average_pooling,
)
from renalplan.trainers.phase import save_weights


def _draw(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


def _tensor(array: NDArray) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))


def _pooled(features: NDArray, masks: NDArray) -> NDArray[np.float64]:
    """t_c = sum y_c f / (sum y_c + 1e-5), voxel by voxel, on one grid."""
    found = np.zeros((len(features), masks.shape[1], features.shape[1]))
    for b, c in np.ndindex(found.shape[:2]):
        total, mass = np.zeros(features.shape[1]), 0.0
        for voxel in np.ndindex(features.shape[2:]):
            total += masks[(b, c, *voxel)] * features[(b, slice(None), *voxel)]
            mass += masks[(b, c, *voxel)]
        found[b, c] = total / (mass + 1e-5)
    return found


def _repeated(features: NDArray, stride: int) -> NDArray:
    for axis in (2, 3, 4):
        features = features.repeat(stride, axis)
    return features


# --- pooling


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("soft", [True, False])
def test_pooling_is_the_weighted_mean(seed: int, soft: bool) -> None:
    features = 3 * _draw(seed, 2, 5, 3, 4, 2)
    masks = np.random.default_rng(seed + 9).random((2, 3, 3, 4, 2))
    if not soft:
        masks = (masks > 0.6).astype(float)
    found = masked_average_pooling(_tensor(features), _tensor(masks))
    assert found.shape == (2, 3, 5)
    np.testing.assert_allclose(found, _pooled(features, masks), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [2, 4])
def test_a_coarse_feature_weighs_as_much_as_its_share_of_the_mask(stride: int) -> None:
    features = _draw(0, 2, 3, 2, 1, 3)
    masks = np.random.default_rng(1).random((2, 4, 2 * stride, stride, 3 * stride)) ** 4
    found = masked_average_pooling(_tensor(features), _tensor(masks))
    expected = _pooled(_repeated(features, stride), masks)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_an_empty_mask_gives_a_zero_vector(stride: int) -> None:
    masks = np.zeros((1, 2, 4, 4, 4))
    masks[0, 1, 0, 0, 0] = 1
    size = 4 // stride
    features = _tensor(1 + _draw(0, 1, 3, size, size, size) ** 2)
    features.requires_grad_()
    found = masked_average_pooling(features, _tensor(masks))
    assert (found[0, 0] == 0).all()
    torch.testing.assert_close(found[0, 1], features[0, :, 0, 0, 0], rtol=1e-3, atol=1e-4)
    found.sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_a_small_mass_shrinks_the_vector() -> None:
    """The 1e-5 below the fraction: a mask of this very size gives half the mean."""
    masks = torch.zeros(1, 1, 2, 2, 2)
    masks[0, 0, 1, 0, 1] = 1e-5
    found = masked_average_pooling(torch.full((1, 1, 2, 2, 2), 8.0), masks)
    assert found.item() == pytest.approx(4, rel=1e-4)


def test_pooling_passes_gradients_to_features_and_masks() -> None:
    features = _tensor(_draw(0, 1, 2, 2, 2, 2)).requires_grad_()
    masks = torch.rand(1, 1, 4, 4, 4).requires_grad_()
    masked_average_pooling(features, masks).sum().backward()
    assert features.grad is not None
    assert masks.grad is not None
    assert features.grad.all()
    assert masks.grad.any()


@pytest.mark.parametrize(
    "masks",
    [(2, 3, 4, 4, 4), (1, 3, 6, 6, 6), (1, 3, 4, 4, 8), (1, 3, 2, 2, 2), (1, 3, 4, 4, 6)],
    ids=["batch", "no whole number", "axes differ", "finer than masks", "one axis"],
)
def test_masks_that_do_not_fit_are_refused(masks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit features of \(1, 5, 4, 4, 4\)"):
        masked_average_pooling(torch.zeros(1, 5, 4, 4, 4), torch.zeros(masks))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_are_pooled_in_single_precision(dtype: torch.dtype) -> None:
    """Sums here reach 64 * 4096 = 262144, beyond the 65504 of a half."""
    values = 4096 + 32.0 * torch.arange(64).reshape(1, 1, 4, 4, 4)
    features = values.to(dtype)
    masks = torch.ones(1, 1, 4, 4, 4, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = masked_average_pooling(features, masks)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert found.item() == pytest.approx(features.double().mean().item(), rel=1e-5)


# --- classification


def _cosines(features: NDArray, prototypes: NDArray, scale: float) -> NDArray[np.float64]:
    """scale * cos of every voxel and prototype (B, C, F); 0 where either is a zero vector."""
    shape = (len(features), prototypes.shape[1], *features.shape[2:])
    found = np.zeros(shape)
    for b, c, *voxel in np.ndindex(shape):
        f, t = features[(b, slice(None), *voxel)], prototypes[b, c]
        lengths = np.linalg.norm(f) * np.linalg.norm(t)
        found[(b, c, *voxel)] = scale * f @ t / lengths if lengths else 0
    return found


@pytest.mark.parametrize("scale", [20.0, 1.5])
def test_logits_are_scaled_cosines(scale: float) -> None:
    features, prototypes = _draw(0, 2, 4, 2, 3, 2), 100 * _draw(1, 2, 3, 4)
    features[1, :, 0, 1, 0] = 0
    prototypes[0, 2] = 0
    found = cosine_classify(_tensor(features), _tensor(prototypes), scale)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, _cosines(features, prototypes, scale), rtol=1e-4, atol=1e-5)
    assert found.abs().max() <= scale + 1e-4


def test_prototypes_without_a_batch_are_for_the_whole_batch() -> None:
    features, prototypes = _draw(0, 3, 4, 2, 2, 2), _draw(1, 5, 4)
    found = cosine_classify(_tensor(features), _tensor(prototypes))
    expected = _cosines(features, np.stack([prototypes] * 3), 20)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_zero_prototype_neither_breaks_the_loss_nor_its_gradient() -> None:
    features = _tensor(_draw(0, 1, 4, 2, 2, 2)).requires_grad_()
    prototypes = torch.zeros(2, 4, requires_grad=True)
    cosine_classify(features, prototypes).softmax(1)[:, 0].sum().backward()
    for each in (features, prototypes):
        assert each.grad is not None
        assert each.grad.isfinite().all()


# --- the network


def _network(decoding: bool = True, draws: int = 3, scale: float = 20.0) -> PrototypeNetwork:
    torch.manual_seed(0)
    network = PrototypeNetwork(
        2, 3, draws=draws, widths=[4, 8, 12], features=8, decoding=decoding, scale=scale
    )
    network.prototypes.copy_(
        torch.randn_like(network.prototypes) * torch.tensor([1, 9, 0.1])[:, None]
    )
    return network.eval()


@pytest.mark.parametrize("decoding", [True, False])
@torch.no_grad()
def test_logits_of_several_draws_are_the_mean_of_each_draws(decoding: bool) -> None:
    network = _network(decoding, scale=7)
    x = torch.randn(2, 2, 8, 4, 12)
    features = network.extractor(x)
    each = [
        enlarge(cosine_classify(features, prototypes, 7), x.shape[2:])
        for prototypes in network.prototypes
    ]
    found = network(x)
    assert found.shape == (2, 3, 8, 4, 12)
    torch.testing.assert_close(found, torch.stack(each).mean(0))
    assert not torch.allclose(each[0], each[1], atol=0.1)


@torch.no_grad()
def test_coarse_logits_are_enlarged_without_aligned_corners() -> None:
    logits = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 1, 2)
    found = enlarge(logits, (1, 1, 4))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 1.0, 3.0, 4.0]))
    assert enlarge(logits, (1, 1, 2)) is logits


@torch.no_grad()
def test_the_whole_network_comes_back_from_its_file(tmp_path: Path) -> None:
    network = _network()
    save_weights(tmp_path / "model.safetensors", network)
    spec = NetworkSpec(
        factory="renalplan.networks.prototypes:PrototypeNetwork",
        arguments={"in_channels": 2, "classes": 3, "draws": 3, "widths": [4, 8, 12], "features": 8},
    )
    spec = NetworkSpec.model_validate_json(spec.model_dump_json())
    other = build_network(spec, "test").eval()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other.get_buffer("prototypes"), network.prototypes)
    x = torch.randn(1, 2, 4, 4, 4)
    assert torch.equal(other(x), network(x))


def test_prototypes_are_kept_and_not_trained() -> None:
    network = _network()
    assert "prototypes" in network.state_dict()
    assert network.prototypes.shape == (3, 3, 8)
    assert "prototypes" not in dict(network.named_parameters())
    assert _network(decoding=False).prototypes.shape == (3, 3, 12)


@torch.no_grad()
def test_half_precision_compares_in_single_precision() -> None:
    network = _network()
    x = torch.randn(1, 2, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.extractor(x)
        found = network(x)
    assert features.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    expected = torch.stack([cosine_classify(features, t) for t in network.prototypes]).mean(0)
    torch.testing.assert_close(found, expected)
