"""The cycle loss against a slow reference written voxel by voxel, values and gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from renalplan.geometry import Shape
from renalplan.labels import LabelScheme
from renalplan.trainers.cycle import CycleLoss, Reverse
from renalplan.trainers.losses.voxels import VoxelLoss, Voxels

Array = NDArray[np.float64]
SHAPE: Shape = (4, 6, 5)
MARGIN: Shape = (0, 1, 2)
CHANNELS, FEATURES = 3, 4


def _scheme(structures: int, *, ignore: bool = False) -> LabelScheme:
    numbers = range(structures + 1)
    return LabelScheme(
        names=("background", *(f"s{n}" for n in numbers[1:])),
        values=tuple((n,) for n in numbers),
        ignore=structures + 1 if ignore else None,
    )


class Linear(nn.Module):
    """A 1x1x1 convolution without bias: features are W times the image's channels."""

    def __init__(self, weight: Array, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.astype(np.float32)))
        self.stride = stride

    def forward(self, image: Tensor) -> Tensor:
        fine = torch.einsum("fc,bczyx->bfzyx", self.weight, image)
        return fine[:, :, :: self.stride, :: self.stride, :: self.stride]


# --- the reference


@dataclass(frozen=True)
class Reference:
    """CycleLoss in NumPy: loops over voxels, float64, nothing shared with the code."""

    structures: int
    margin: Shape = MARGIN
    theta: float = 1.0
    reverse: Reverse = "soft"
    scale: float = 20.0
    ring: bool = True

    def loss(self, weight: Array, episode: dict[str, Array]) -> float:
        """theta * L_query + L_support."""
        supports = self._features(weight, episode["support_image"])
        queries = self._features(weight, episode["image"])
        prototypes = self._support_prototypes(supports, episode["support_labels"])
        total, count, backward = 0.0, 0, []
        for features, labels in zip(queries, episode["labels"], strict=True):
            p = self._classify(features, prototypes)
            for voxel in np.ndindex(SHAPE):
                value = int(labels[(0, *voxel)])
                if value <= self.structures:
                    total -= np.log(p[(value, *voxel)])
                    count += 1
            backward.append(self._backward(p, features, supports, episode["support_labels"]))
        return self.theta * total / max(count, 1) + float(np.mean(backward))

    def _features(self, weight: Array, images: Array) -> Array:
        return np.einsum("fc,bczyx->bfzyx", weight, images)

    def _around(self, foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Voxels within the margin of foreground; all if there is none."""
        found = np.zeros(SHAPE, bool)
        places = np.argwhere(foreground)
        for voxel in np.ndindex(SHAPE):
            near = np.abs(places - np.array(voxel)) <= np.array(self.margin)
            found[voxel] = not len(places) or bool(near.all(1).any())
        return found if self.ring else np.ones(SHAPE, bool)

    @staticmethod
    def _pool(features: Array, mask: Array) -> Array:
        total, mass = np.zeros(len(features)), 0.0
        for voxel in np.ndindex(SHAPE):
            total += mask[voxel] * features[(slice(None), *voxel)]
            mass += mask[voxel]
        return total / (mass + 1e-5)

    def _support_prototypes(self, features: Array, labels: Array) -> list[Array]:
        background, own = [], []
        for k, (f, y) in enumerate(zip(features, labels[:, 0], strict=True), start=1):
            foreground = (y > 0) & (y <= self.structures)
            background.append(self._pool(f, ((y == 0) & self._around(foreground)).astype(float)))
            own.append(self._pool(f, (y == k).astype(float)))
        return [np.mean(background, 0), *own]

    def _classify(self, features: Array, prototypes: list[Array], among: Any = None) -> Array:
        """Softmax over the classes there are; the others have probability 0."""
        among = range(len(prototypes)) if among is None else among
        found = np.zeros((len(prototypes), *SHAPE))
        for voxel in np.ndindex(SHAPE):
            f = features[(slice(None), *voxel)]
            for c in among:
                lengths = np.linalg.norm(f) * np.linalg.norm(prototypes[c])
                cosine = f @ prototypes[c] / lengths if lengths else 0.0
                found[(c, *voxel)] = np.exp(self.scale * cosine)
        return found / found.sum(0)

    def _backward(self, p: Array, features: Array, supports: Array, labels: Array) -> float:
        decided = p.argmax(0)
        classes = range(self.structures + 1)
        masks = [(decided == c).astype(float) for c in classes] if self.reverse == "hard" else p
        there = [c for c in classes if np.mean(masks[c]) >= 1e-3]
        around = self._around(decided > 0)
        prototypes = [
            self._pool(features, masks[c] * around if c == 0 else masks[c]) for c in classes
        ]
        total, count = 0.0, 0
        for f, y in zip(supports, labels[:, 0], strict=True):
            found = self._classify(f, prototypes, there)
            for voxel in np.ndindex(SHAPE):
                if int(y[voxel]) in there:
                    total -= np.log(found[(int(y[voxel]), *voxel)])
                    count += 1
        return total / max(count, 1)


# --- episodes


def _labels(generator: np.random.Generator, structures: int, *, ignore: bool) -> Array:
    """A box of each structure somewhere, background, and voxels of the ignore label."""
    labels = np.zeros((1, *SHAPE))
    for value in range(1, structures + 1):
        z, y, x = (generator.integers(n - 1) for n in SHAPE)
        labels[0, z : z + 2, y : y + 2, x : x + 2] = value
    if ignore:
        labels[generator.random(labels.shape) < 0.15] = structures + 1
    return labels


def _episode(
    seed: int, structures: int, queries: int, *, ignore: bool = False, contrast: float = 0.4
) -> dict[str, Array]:
    generator = np.random.default_rng(seed)
    looks = generator.normal(0, contrast, (structures + 2, CHANNELS))

    def images(labels: Array) -> Array:
        clean = looks[labels[:, 0].astype(int)]
        return np.moveaxis(clean + generator.normal(0, 0.5, clean.shape), -1, 1)

    def draw(count: int) -> Array:
        return np.stack([_labels(generator, structures, ignore=ignore) for _ in range(count)])

    support, query = draw(structures), draw(queries)
    return {
        "support_image": images(support),
        "support_labels": support,
        "image": images(query),
        "labels": query,
    }


def _tensors(episode: dict[str, Array]) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(value.astype(np.int16 if "labels" in name else np.float32))
        for name, value in episode.items()
    }


def _weight(seed: int) -> Array:
    return np.random.default_rng([seed, 7]).normal(size=(FEATURES, CHANNELS))


def _both(
    episode: dict[str, Array], weight: Array, *, ignore: bool = False, **values: Any
) -> tuple[float, float]:
    """The code's loss and the reference's."""
    structures = len(episode["support_image"])
    given = {"theta": 1.0, "reverse": "soft"} | values
    code = CycleLoss(_scheme(structures, ignore=ignore), given.pop("margin", MARGIN), **given)
    loss = code(Linear(weight), _tensors(episode))
    assert loss.shape == ()
    return loss.item(), Reference(structures, **({"margin": code.margin} | given)).loss(
        weight, episode
    )


# --- values


@pytest.mark.parametrize("reverse", ["soft", "hard"])
@pytest.mark.parametrize("structures", [1, 2, 3])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("theta", [0.0, 0.1, 1.0])
def test_the_loss_is_the_references(
    structures: int, queries: int, theta: float, reverse: Reverse
) -> None:
    for seed in range(2):
        episode = _episode(seed, structures, queries)
        found, expected = _both(episode, _weight(seed), theta=theta, reverse=reverse)
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("reverse", ["soft", "hard"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_known_is_left_out_everywhere(seed: int, reverse: Reverse) -> None:
    episode = _episode(seed, 2, 2, ignore=True)
    assert (episode["support_labels"] == 3).any()
    found, expected = _both(episode, _weight(seed), ignore=True, theta=0.5, reverse=reverse)
    assert found == pytest.approx(expected, rel=1e-4)
    other = {name: value.copy() for name, value in episode.items()}
    for image, labels in (("image", "labels"), ("support_image", "support_labels")):
        unknown = np.broadcast_to(other[labels] == 3, other[image].shape)
        if image == "support_image":
            other[image][unknown] = 50
    again, _ = _both(other, _weight(seed), ignore=True, theta=0.5, reverse=reverse)
    assert again == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("reverse", ["soft", "hard"])
def test_a_class_the_query_lacks_is_left_out_of_the_reverse(reverse: Reverse) -> None:
    """The query looks like background all over: what it cannot give back is not asked for."""
    episode = _episode(0, 2, 1, contrast=8.0)
    place = tuple(np.argwhere(episode["support_labels"][0, 0] == 0)[0])
    look = episode["support_image"][(0, slice(None), *place)]
    noise = np.random.default_rng(1).normal(0, 0.01, episode["image"].shape)
    episode["image"] = look.reshape(1, -1, 1, 1, 1) + noise
    episode["labels"][:] = 0
    weight = _weight(0)
    reference = Reference(2)
    features = reference._features(weight, episode["support_image"])
    prototypes = reference._support_prototypes(features, episode["support_labels"])
    p = reference._classify(reference._features(weight, episode["image"])[0], prototypes)
    assert 0 < p[1:].mean(axis=(1, 2, 3)).min() < 1e-3, "the example is about such a class"
    found, expected = _both(episode, weight, reverse=reverse)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("voxels", "present"), [(1, True), (0, False)])
def test_one_voxel_of_a_small_query_is_enough(voxels: int, present: bool) -> None:
    """1 of 120 voxels is more than 1e-3 of them."""
    episode = _separable()
    episode["image"][:, :, :] = np.eye(3)[0].reshape(1, 3, 1, 1, 1)
    episode["labels"][:] = 0
    for number in range(voxels):
        episode["image"][0, :, 0, 0, number] = np.eye(3)[1]
        episode["labels"][0, 0, 0, 0, number] = 1
    found, expected = _both(episode, np.eye(3), reverse="hard", theta=0)
    assert found == pytest.approx(expected, abs=1e-6)
    reference = Reference(2, reverse="hard")
    p = np.zeros((3, *SHAPE))
    p[0] = 1
    if present:
        p[:, 0, 0, 0] = 0, 1, 0
    features = episode["image"][0]
    alone = reference._backward(p, features, episode["support_image"], episode["support_labels"])
    assert found == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("margin", [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 1), (9, 9, 9)])
def test_background_is_pooled_within_the_margin_along_each_axis(margin: Shape) -> None:
    episode = _episode(3, 2, 1)
    found, expected = _both(episode, _weight(3), margin=margin)
    assert found == pytest.approx(expected, rel=1e-4)


def test_what_lies_beyond_the_margin_is_no_background_to_learn_from() -> None:
    shape = (1, 1, 20)
    labels = torch.zeros(1, 1, *shape)
    labels[..., 8:10] = 1
    cycle = CycleLoss(_scheme(1), (0, 0, 2))
    features = torch.zeros(1, 2, *shape)
    features[0, 0, ..., 6:12] = 1
    features[0, 1, ..., :6] = features[0, 1, ..., 12:] = 100
    found = cycle.prototypes(features, cycle.encoder(labels)[0])
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), atol=1e-4, rtol=0)


def test_a_query_without_foreground_gives_all_of_itself_as_background() -> None:
    episode = _separable()
    episode["image"][:] = np.eye(3)[0].reshape(1, 3, 1, 1, 1)
    episode["labels"][:] = 0
    found, _ = _both(episode, np.eye(3), reverse="hard")
    assert found == pytest.approx(0, abs=1e-6)


def test_each_support_gives_its_own_structure_and_all_the_background() -> None:
    cycle = CycleLoss(_scheme(2), (9, 9, 9))
    labels = torch.zeros(2, 1, 1, 1, 6)
    labels[0, ..., :2], labels[0, ..., 2:4] = 1, 2
    labels[1, ..., :2], labels[1, ..., 2:3] = 2, 1
    features = torch.zeros(2, 3, 1, 1, 6)
    features[0, 0, ..., :2], features[0, 1, ..., 2:4], features[0, 2, ..., 4:] = 1, 2, 3
    features[1, 0, ..., 2:3], features[1, 1, ..., :2], features[1, 2, ..., 3:] = 4, 5, 7
    found = cycle.prototypes(features, cycle.encoder(labels)[0])
    expected = torch.tensor([[0.0, 0.0, 5.0], [1.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [20.0, 5.0])
def test_the_scale_sharpens_both_directions(scale: float) -> None:
    found, expected = _both(_episode(1, 2, 1), _weight(1), scale=scale)
    assert found == pytest.approx(expected, rel=1e-4)


def test_another_loss_compares_queries_and_supports_alike() -> None:
    seen: list[Voxels] = []

    class Constant(VoxelLoss):
        def value(self, voxels: Voxels) -> Tensor:
            seen.append(voxels)
            return voxels.logits.new_tensor(2.0)

    episode = _tensors(_episode(0, 2, 3, ignore=True))
    cycle = CycleLoss(_scheme(2, ignore=True), MARGIN, theta=0.25, loss=Constant(exclusive=True))
    assert cycle(Linear(_weight(0)), episode).item() == pytest.approx(0.25 * 2 + 2)
    query, *supports = seen
    assert torch.equal(query.known, (episode["labels"] != 3).float())
    assert torch.equal(query.target, cycle.encoder(episode["labels"])[0])
    assert len(supports) == 3
    for each in supports:
        assert torch.equal(each.known, (episode["support_labels"] != 3).float())
        assert torch.equal(each.target, cycle.encoder(episode["support_labels"])[0])


def test_queries_weigh_the_same_in_the_reverse() -> None:
    """Two queries: the mean of what each gives alone, where theta is 0."""
    both = _episode(4, 2, 2)
    alone = []
    for number in range(2):
        one = both | {name: both[name][number : number + 1] for name in ("image", "labels")}
        alone.append(_both(one, _weight(4), theta=0.0)[0])
    assert alone[0] != pytest.approx(alone[1], rel=1e-2)
    assert _both(both, _weight(4), theta=0.0)[0] == pytest.approx(np.mean(alone), rel=1e-5)


# --- what it is for


def _separable() -> dict[str, Array]:
    """Background, first and second structure are the three unit vectors."""
    generator = np.random.default_rng(0)
    labels = np.stack([_labels(generator, 2, ignore=False) for _ in range(3)])
    for number in range(3):
        assert {0, 1, 2} == set(np.unique(labels[number]))
    images = np.moveaxis(np.eye(3)[labels[:, 0].astype(int)], -1, 1).copy()
    return {
        "support_image": images[:2],
        "support_labels": labels[:2],
        "image": images[2:],
        "labels": labels[2:],
    }


@pytest.mark.parametrize("reverse", ["soft", "hard"])
def test_a_perfect_case_costs_nothing(reverse: Reverse) -> None:
    found, _ = _both(_separable(), np.eye(3), reverse=reverse)
    assert 0 <= found < 1e-5


def test_labels_exchanged_cost_much_in_one_direction_each() -> None:
    episode = _separable()
    wrong = episode | {
        "labels": np.select([episode["labels"] == 1, episode["labels"] == 2], [2, 1])
    }
    free, _ = _both(wrong, np.eye(3), theta=0)
    assert free < 1e-5, "the reverse does not look at the query's labels"
    costly, _ = _both(wrong, np.eye(3), theta=0.1)
    full, _ = _both(wrong, np.eye(3), theta=1.0)
    assert costly > 0.05
    assert full == pytest.approx(10 * costly, rel=1e-3)


def test_the_reverse_asks_the_supports_to_be_found_again() -> None:
    """A query whose look belongs to no class of the supports: only the reverse notices."""
    episode = _separable()
    images = episode["image"]
    images[:, 1][episode["labels"][:, 0] == 0] = 0.99
    at_ease, _ = _both(_separable(), np.eye(3), theta=0)
    worse, expected = _both(episode, np.eye(3), theta=0)
    assert worse > at_ease + 0.01
    assert worse == pytest.approx(expected, rel=1e-3)


# --- gradients


@pytest.mark.parametrize("reverse", ["soft", "hard"])
@pytest.mark.parametrize(("structures", "theta"), [(2, 1.0), (1, 0.1), (2, 0.0)])
def test_gradients_are_the_references_differences(
    structures: int, theta: float, reverse: Reverse
) -> None:
    """Central differences of the float64 reference; the code computes in float32."""
    episode, weight = _episode(5, structures, 1), _weight(5)
    code = CycleLoss(_scheme(structures), MARGIN, theta=theta, reverse=reverse)
    extractor = Linear(weight)
    code(extractor, _tensors(episode)).backward()
    reference = Reference(structures, theta=theta, reverse=reverse)
    expected = np.zeros_like(weight)
    for place in np.ndindex(weight.shape):
        step = np.zeros_like(weight)
        step[place] = 1e-5
        there, back = (reference.loss(weight + sign * step, episode) for sign in (1, -1))
        expected[place] = (there - back) / 2e-5
    assert extractor.weight.grad is not None
    found = extractor.weight.grad.numpy()
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-3 * np.abs(expected).max())


def test_soft_masks_pass_gradients_where_hard_ones_do_not() -> None:
    found = []
    for reverse in ("soft", "hard"):
        extractor = Linear(_weight(5))
        CycleLoss(_scheme(2), MARGIN, theta=0, reverse=reverse)(  # type: ignore[arg-type]
            extractor, _tensors(_episode(5, 2, 1))
        ).backward()
        found.append(extractor.weight.grad)
    soft, hard = found
    assert soft is not None
    assert hard is not None
    assert not torch.allclose(soft, hard, rtol=0.05)


# --- prediction and coarse features


def test_prediction_is_the_forward_process_alone() -> None:
    episode, weight = _episode(2, 2, 2), _weight(2)
    cycle = CycleLoss(_scheme(2), MARGIN)
    found = cycle.predict(Linear(weight), _tensors(episode)).softmax(1)
    reference = Reference(2)
    prototypes = reference._support_prototypes(
        reference._features(weight, episode["support_image"]), episode["support_labels"]
    )
    for number, features in enumerate(reference._features(weight, episode["image"])):
        expected = reference._classify(features, prototypes)
        np.testing.assert_allclose(found[number].detach(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reverse", ["soft", "hard"])
def test_coarse_features_of_blocks_are_as_good_as_fine_ones(reverse: Reverse) -> None:
    """A perfect case of 2x2x2 blocks; logits are enlarged, so only the blocks' seams cost."""
    coarse = np.zeros((3, 1, 3, 4, 4))
    coarse[:, :, 0:1, 0:2], coarse[:, :, 1:3, 2:4] = 1, 2
    labels = coarse.repeat(2, 2).repeat(2, 3).repeat(2, 4)
    images = np.moveaxis(np.eye(3)[labels[:, 0].astype(int)], -1, 1)
    episode = _tensors(
        {
            "support_image": images[:2],
            "support_labels": labels[:2],
            "image": images[2:],
            "labels": labels[2:],
        }
    )
    cycle = CycleLoss(_scheme(2), (1, 1, 1), reverse=reverse)
    extractor = Linear(np.eye(3), stride=2)
    loss = cycle(extractor, episode)
    assert loss.item() < 0.2
    logits = cycle.predict(extractor, episode)
    assert logits.shape == (1, 3, 6, 8, 8)
    assert torch.equal(logits.argmax(1), episode["labels"][:, 0].long())
    loss.backward()
    assert extractor.weight.grad is not None
    assert extractor.weight.grad.isfinite().all()


def test_the_loss_is_finite_for_any_features() -> None:
    """Untrained, extreme or empty: a zero image has no direction at all."""
    episode = _tensors(_episode(0, 2, 1))
    for factor in (0.0, 1e-12, 1e12):
        scaled = {n: v * factor if "image" in n else v for n, v in episode.items()}
        extractor = Linear(_weight(0))
        loss = CycleLoss(_scheme(2), MARGIN)(extractor, scaled)
        loss.backward()
        assert loss.isfinite()
        assert extractor.weight.grad is not None
        assert extractor.weight.grad.isfinite().all()
