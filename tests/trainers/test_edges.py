"""Edges are the outermost voxels of a structure; no cut and nothing unknown makes one."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.feature import canny

from renalplan.labels import LabelScheme
from renalplan.trainers.edges import EdgeSource, edge_targets, outlines

CUBE = (1.0, 1.0, 1.0)
UNIONS = ((1, 2), (2,))
KITS = LabelScheme(names=("background", "kidney", "tumor"), values=((0,), (1,), (2,)))


def _scheme(*names: str, **arguments: Any) -> LabelScheme:
    values = tuple((value,) for value in range(len(names) + 1))
    return LabelScheme(names=("background", *names), values=values, **arguments)


def _random(*shape: int, top: int = 3, seed: int = 0) -> torch.Tensor:
    """Clumps of 0 … top - 1, so that there are insides as well as edges."""
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, (0, 0, 1.2, 1.2, 1.2)[-len(shape) :])
    ranks = np.digitize(smooth, np.quantile(smooth, np.linspace(0, 1, top + 1)[1:-1]))
    return torch.from_numpy(ranks.astype(np.int16))


def _slow(
    labels: NDArray, values: tuple[int, ...], axes: list[int], ignore: int | None
) -> NDArray[np.uint8]:
    """One patch (z, y, x), voxel by voxel."""
    edges = np.zeros(labels.shape, np.uint8)
    for place in np.ndindex(labels.shape):
        if labels[place] not in values:
            continue
        for axis, step in product(axes, (-1, 1)):
            other = list(place)
            other[axis] += step
            if not 0 <= other[axis] < labels.shape[axis]:
                continue
            neighbour = labels[tuple(other)]
            if neighbour not in values and neighbour != ignore:
                edges[place] = 1
    return edges


def _disc(radius: float = 7, size: int = 32) -> NDArray[np.bool_]:
    y, x = np.mgrid[:size, :size]
    disc: NDArray[np.bool_] = (y - 15.3) ** 2 + (x - 16.1) ** 2 < radius**2
    return disc


@pytest.mark.parametrize("names", [("kidney", "tumor"), ("Kidney", "TUMOUR")])
def test_the_kidney_s_edge_is_that_of_kidney_and_tumor(names: tuple[str, str]) -> None:
    assert outlines(_scheme(*names)) == ((1, 2), (2,))


def test_a_kidney_takes_in_every_lesion_and_nothing_else() -> None:
    scheme = _scheme("vein", "Left_Kidney", "artery", "tumor", "Renal Cyst", "Mass", "lesion2")
    assert outlines(scheme) == ((1,), (2, 4, 5, 6, 7), (3,), (4,), (5,), (6,), (7,))


def test_a_lesion_named_after_the_kidney_keeps_its_own_edge() -> None:
    assert outlines(_scheme("kidney", "kidney_tumor", "kidney cyst")) == ((1, 2, 3), (2,), (3,))


def test_a_lesion_of_the_other_side_is_not_taken_in() -> None:
    scheme = _scheme("kidney_left", "kidney_right", "tumor_left", "tumor_right", "cyst")
    assert outlines(scheme)[:2] == ((1, 3, 5), (2, 4, 5))


def test_regions_stay_as_they_are() -> None:
    scheme = LabelScheme(
        names=("kidney and masses", "masses", "kidney", "tumor"),
        values=((1, 3, 2), (2, 3), (1,), (2,)),
        region_values=(1, 3, 1, 2),
    )
    assert outlines(scheme) == ((1, 2, 3), (2, 3), (1,), (2,))


def test_the_ignore_value_has_no_outline() -> None:
    assert outlines(_scheme("kidney", "tumor", ignore=3)) == UNIONS
    odd = LabelScheme(names=("a", "b"), values=((1, 3), (2,)), region_values=(1, 2), ignore=3)
    assert outlines(odd) == ((1,), (2,))
    # nor does it count when a caller lists it
    labels = _random(1, 1, 6, 6, 6, top=4)
    listed = edge_targets(labels, ((1, 3),), spacing=CUBE, ignore=3)
    assert torch.equal(listed, edge_targets(labels, ((1,),), spacing=CUBE, ignore=3))


def test_one_outline_for_each_structure() -> None:
    for scheme in (KITS, KITS.as_foreground()):
        assert len(outlines(scheme)) == len(scheme.foreground)


@pytest.mark.parametrize(
    ("spacing", "axes"),
    [
        (CUBE, [0, 1, 2]),
        ((3.0, 0.78, 0.78), [1, 2]),
        ((2.9999, 0.78, 0.78), [1, 2]),  # 3 mm as a header may have it
        ((2.5, 0.78, 0.78), [0, 1, 2]),  # below 3 mm
        ((3.22, 1.62, 1.62), [0, 1, 2]),  # not twice
        ((4.0, 4.0, 4.0), [0, 1, 2]),
        ((0.8, 5.0, 0.8), [0, 2]),
        ((None, 0.8, 0.8), [1, 2]),
    ],
)
@pytest.mark.parametrize("ignore", [None, 3])
def test_erosion_is_what_voxels_and_their_neighbours_say(
    spacing: tuple[Any, Any, Any], axes: list[int], ignore: int | None
) -> None:
    labels = _random(2, 1, 5, 7, 8, top=4)
    edges = edge_targets(labels, (*UNIONS, (1,)), spacing=spacing, ignore=ignore)
    assert edges.shape == (2, 3, 5, 7, 8)
    assert edges.dtype == torch.uint8
    for sample, (number, values) in product((0, 1), enumerate((*UNIONS, (1,)))):
        slow = _slow(labels[sample, 0].numpy(), values, axes, ignore)
        assert 0 < slow.sum() < slow.size
        np.testing.assert_array_equal(edges[sample, number], slow)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_label_types_give_the_same(dtype: torch.dtype) -> None:
    labels = _random(1, 1, 6, 6, 6)
    expected = edge_targets(labels, UNIONS, spacing=CUBE)
    assert torch.equal(edge_targets(labels.to(dtype), UNIONS, spacing=CUBE), expected)


def test_ball() -> None:
    z, y, x = np.mgrid[:16, :16, :16]
    ball = (z - 7.2) ** 2 + (y - 8) ** 2 + (x - 7.5) ** 2 < 25
    labels = torch.from_numpy(ball.astype(np.int16))[None, None]
    edges = edge_targets(labels, ((1,),), spacing=CUBE)[0, 0].numpy()
    np.testing.assert_array_equal(edges, ball ^ ndimage.binary_erosion(ball))
    # in thick slices every slice has its ring, and the caps are no solid plates
    thick = edge_targets(labels, ((1,),), spacing=(5.0, 0.8, 0.8))[0, 0].numpy()
    for inside, ring in zip(ball, thick, strict=True):
        np.testing.assert_array_equal(ring, inside ^ ndimage.binary_erosion(inside))


@pytest.mark.parametrize("method", ["erosion", "canny"])
def test_a_cut_is_no_edge(method: Any) -> None:
    full = torch.zeros(1, 1, 16, 24, 24, dtype=torch.int16)
    full[..., 8:16, :] = 1  # a slab that leaves the patch in two directions
    whole = edge_targets(full, ((1,),), spacing=CUBE, method=method)
    assert whole.any()
    cut = edge_targets(full[..., 4:12, :, 5:15], ((1,),), spacing=CUBE, method=method)
    assert torch.equal(cut, whole[..., 4:12, :, 5:15])
    inside = edge_targets(torch.ones_like(full), ((1,),), spacing=CUBE, method=method)
    assert not inside.any()


@pytest.mark.parametrize("method", ["erosion", "canny"])
def test_the_border_to_ignored_voxels_is_no_edge(method: Any) -> None:
    labels = torch.zeros(1, 1, 4, 24, 24, dtype=torch.int16)
    labels[..., 10:, :] = 1
    known = edge_targets(labels, ((1,),), spacing=CUBE, method=method)
    labels[..., 14:] = 2
    edges = edge_targets(labels, ((1,),), spacing=CUBE, method=method, ignore=2)
    # of two equally steep voxels, just inside and just outside, rounding chooses Canny's
    rows = slice(10, 11) if method == "erosion" else slice(9, 11)
    for each, columns in ((known, 24), (edges, 13 if method == "erosion" else 12)):
        assert each[..., rows, :columns].amax(-2).all()
        assert each[..., rows, :].sum() == each.sum()
    assert not edges[..., 14:].any()


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("flipped", [(), (0,), (1, 2), (0, 1, 2)])
def test_erosion_follows_flips_and_permuted_axes(
    order: tuple[int, ...], flipped: tuple[int, ...]
) -> None:
    labels = _random(2, 1, 5, 6, 7, top=4)
    spacing = (3.0, 1.0, 0.8)

    def _moved(volume: torch.Tensor) -> torch.Tensor:
        axes = [axis + 2 for axis in order]
        return volume.permute(0, 1, *axes).flip([axis + 2 for axis in flipped])

    expected = _moved(edge_targets(labels, UNIONS, spacing=spacing, ignore=3))
    permuted = tuple(spacing[axis] for axis in order)
    assert torch.equal(edge_targets(_moved(labels), UNIONS, spacing=permuted, ignore=3), expected)


@pytest.mark.parametrize("sigma", [1.0, 1.5])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
def test_canny_is_scikit_images(slice_axis: int, sigma: float) -> None:
    discs = [_disc(3), _disc(5), _disc(7)]
    volume = np.stack(discs, slice_axis).astype(np.int16)
    labels = torch.from_numpy(volume)[None, None].repeat(2, 1, 1, 1, 1)
    labels[1] *= 2
    edges = edge_targets(
        labels, UNIONS, spacing=CUBE, method="canny", slice_axis=slice_axis, sigma=sigma
    )
    expected = np.stack([canny(d.astype(float), sigma=sigma) for d in discs], slice_axis)
    assert edges.dtype == torch.uint8
    for sample, number in ((0, 0), (1, 0), (1, 1)):
        np.testing.assert_array_equal(edges[sample, number], expected)
    assert not edges[0, 1].any()


def test_canny_of_a_cut_disc_is_that_of_the_whole_one_away_from_the_cut() -> None:
    disc = _disc()
    labels = torch.from_numpy(disc[:, :18].astype(np.int16))[None, None, None]
    edges = edge_targets(labels, ((1,),), spacing=CUBE, method="canny")[0, 0, 0].numpy()
    expected = canny(disc.astype(float))
    assert expected[:, :13].any()
    np.testing.assert_array_equal(edges[:, :13], expected[:, :13])
    assert not edges[12:19, 12:].any()  # the cut runs through the middle of the disc


def test_no_outlines_give_no_channels() -> None:
    edges = edge_targets(_random(2, 1, 4, 4, 4), (), spacing=CUBE)
    assert edges.shape == (2, 0, 4, 4, 4)


@pytest.mark.parametrize("method", ["erosion", "canny"])
def test_absent_structures_have_no_edge(method: Any) -> None:
    labels = torch.zeros(1, 1, 1, 8, 8, dtype=torch.int16)
    assert not edge_targets(labels, UNIONS, spacing=CUBE, method=method).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing"),
        ({"spacing": (1.0, 1.0)}, "spacing"),
        ({"spacing": (None, None, None)}, "spacing"),
        ({"method": "sobel"}, "method must be"),
        ({"slice_axis": 3}, "slice_axis"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"spacing": CUBE} | changes
    with pytest.raises(ValueError, match=message):
        edge_targets(_random(1, 1, 4, 4, 4), UNIONS, **arguments)
    with pytest.raises(ValueError, match=message):
        EdgeSource(Same(), UNIONS, **arguments)


def test_more_than_one_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, Z, Y, X\)"):
        edge_targets(_random(1, 2, 4, 4, 4), UNIONS, spacing=CUBE)


@dataclass(frozen=True)
class Same:
    """The same labels for the same step."""

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        labels = _random(2, 1, 6, 8, 8, top=4, seed=step)
        return {"image": labels.float(), "labels": labels}


@pytest.mark.parametrize("method", ["erosion", "canny"])
def test_source_adds_edges_and_survives_pickling(method: Any) -> None:
    source = EdgeSource(Same(), UNIONS, (0.8, 5.0, 0.8), method=method, slice_axis=1, ignore=3)
    again = pickle.loads(pickle.dumps(source))
    assert again == source
    for step in (0, 1):
        batch = again.batch(step)
        assert list(batch) == ["image", "labels", "edges"]
        expected = edge_targets(
            batch["labels"],
            UNIONS,
            spacing=(0.8, 5.0, 0.8),
            method=method,
            slice_axis=1,
            ignore=3,
        )
        assert torch.equal(batch["edges"], expected)
        assert torch.equal(batch["edges"], source.batch(step)["edges"])
    assert not torch.equal(source.batch(0)["edges"], source.batch(1)["edges"])
