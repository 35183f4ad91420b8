"""Any spacing, size, order of axes and box: resampled and brought back onto the scan."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from renalplan.geometry import Box, box_shape, box_slices
from renalplan.inference.fields import RegionField, RegionLogits
from renalplan.interpolation import cubic_matrix, linear_matrix, source_positions
from renalplan.labels import LabelScheme
from renalplan.normalisation import Rescaling
from renalplan.plan import ChannelPlan, Intensities, NetworkSpec, Plan, StagePlan
from renalplan.plane_resampling import TensorPlanes, resample_planes
from renalplan.preprocessing import prepare_image, prepare_labels, stage_shape
from renalplan.resampling import resample_image, resample_labels

STRUCTURES = 3
SCHEME = LabelScheme(
    names=("background", "kidney", "tumor", "cyst"), values=((0,), (1,), (2,), (3,))
)
HU = Intensities(
    mean=0, std=1, minimum=0, maximum=1, median=0, percentile_00_5=0, percentile_99_5=1
)
SAME = Rescaling(None, None, 0.0, 1.0)
AXES = tuple(permutations("zyx"))

shapes = st.tuples(*[st.integers(1, 12)] * 3)
spacings = st.tuples(*[st.floats(0.1, 10)] * 3)
seeds = st.integers(0, 2**32 - 1)


def plan_of(spacing: tuple[float | None, ...], axes: tuple[str, ...]) -> Plan:
    stage = StagePlan(
        name="full",
        spacing=spacing,  # type: ignore[arg-type]
        median_shape=(8, 8, 8),
        patch_size=(4, 4, 4),
        batch_size=2,
        network=NetworkSpec(factory="renalplan.networks.unet:ConvNorm"),
    )
    return Plan(
        name="fuzz",
        dataset="Dataset001_Fuzz",
        planner="none",
        axes=axes,  # type: ignore[arg-type]
        channels=(ChannelPlan(name="CT", normalisation="none", intensities=HU),),
        stages=(stage,),
        configurations={"full": ("full",)},
        default_configuration="full",
    )


@st.composite
def resamplings(draw: st.DrawFn) -> tuple[tuple, tuple, tuple]:
    """A shape, its spacing, and another spacing that makes at most some 40 voxels of an axis."""
    shape, spacing = draw(shapes), draw(spacings)
    target = tuple(
        draw(st.floats(max(0.1, own * size / 40), 10) | st.just(own))
        for own, size in zip(spacing, shape, strict=True)
    )
    return shape, spacing, target


def blobs(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Labels in pieces of a few voxels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, STRUCTURES + 1, [math.ceil(n / 4) for n in shape]).astype(np.uint8)
    fine = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    return np.ascontiguousarray(fine[tuple(slice(n) for n in shape)])


def a_box(shape: tuple[int, ...], seed: int) -> Box:
    rng = np.random.default_rng([seed, 1])
    sides = [sorted(rng.choice(n + 1, 2, replace=False).tolist()) for n in shape]
    return tuple((a, b) for a, b in sides)  # type: ignore[return-value]


@given(resamplings(), st.sampled_from(AXES), seeds)
def test_labels_come_back_where_their_neighbours_are_alike(
    resampling: tuple[tuple, tuple, tuple], axes: tuple[str, ...], seed: int
) -> None:
    shape, spacing, target = resampling
    plan = plan_of(tuple(target["zyx".index(axis)] for axis in axes), axes)
    stage = plan.stages[0]
    labels, box = blobs(shape, seed), a_box(shape, seed)
    prepared = prepare_labels(labels, box, spacing, plan, stage)
    assert prepared.shape == stage_shape(plan, stage, box_shape(box), spacing)
    one_hot = np.stack([plan.from_plan(prepared) == value for value in range(STRUCTURES + 1)])
    logits = TensorPlanes(torch.from_numpy(np.where(one_hot, 30, -30).astype(np.float32)))
    field = RegionField(
        shape, STRUCTURES + 1, [RegionLogits(box=box, logits=logits)], exclusive=True
    )
    found = field.labels(SCHEME)
    assert found.shape == shape
    inside = np.zeros(shape, bool)
    inside[box_slices(box)] = True
    assert not found[~inside].any()
    cut = labels[box_slices(box)]
    # a voxel hears of those up to a prepared voxel and one of its own away
    made = plan.from_plan(prepared).shape
    reach = [2 * (math.ceil(old / new) + 1) + 1 for old, new in zip(cut.shape, made, strict=True)]
    alike = ndimage.maximum_filter(cut, reach, mode="nearest") == ndimage.minimum_filter(
        cut, reach, mode="nearest"
    )
    np.testing.assert_array_equal(found[box_slices(box)][alike], cut[alike])
    assert set(np.unique(found)) <= set(np.unique(cut)) | {0}


@given(shapes, st.tuples(*[st.sampled_from((1, 3, 5))] * 3), st.sampled_from(AXES), seeds)
def test_odd_multiples_and_back_is_the_identity(
    shape: tuple[int, ...], factor: tuple[int, ...], axes: tuple[str, ...], seed: int
) -> None:
    """Every old centre is a new one too. Images to 1e-4 of their range, labels exactly."""
    spacing = (1.0, 1.0, 1.0)
    plan = plan_of(tuple(1 / factor["zyx".index(axis)] for axis in axes), axes)
    stage = plan.stages[0]
    box = a_box(shape, seed)
    image = np.random.default_rng(seed).normal(0, 300, (2, *shape)).astype(np.float32)
    own = box_shape(box)
    prepared = prepare_image(image, box, spacing, plan, stage, (SAME, SAME))
    back = resample_image(np.ascontiguousarray(plan.from_plan(prepared)), own)
    cut = image[(slice(None), *box_slices(box))]
    np.testing.assert_allclose(back, cut, rtol=0, atol=1e-4 * np.ptp(image))
    labels = np.random.default_rng(seed).integers(0, STRUCTURES + 1, shape).astype(np.uint8)
    made = prepare_labels(labels, box, spacing, plan, stage)
    again = resample_labels(np.ascontiguousarray(plan.from_plan(made)), own)
    np.testing.assert_array_equal(again, labels[box_slices(box)])


@given(resamplings(), seeds)
def test_an_image_keeps_its_range_and_a_constant_its_value(
    resampling: tuple[tuple, tuple, tuple], seed: int
) -> None:
    shape, spacing, target = resampling
    plan = plan_of(target, ("z", "y", "x"))
    made = stage_shape(plan, plan.stages[0], shape, spacing)
    image = np.random.default_rng(seed).normal(0, 300, (2, *shape)).astype(np.float32)
    image[1] = image[0, 0, 0, 0]
    found = resample_image(image, made, spacing)
    assert found.shape == (2, *made)
    assert found[0].min() >= image[0].min()
    assert found[0].max() <= image[0].max()
    np.testing.assert_array_equal(found[1], image[1, 0, 0, 0])


@given(shapes, st.tuples(*[st.integers(1, 20)] * 3), spacings, seeds)
def test_resampling_does_not_care_how_a_scan_lies(
    shape: tuple[int, ...], made: tuple[int, int, int], spacing: tuple[float, ...], seed: int
) -> None:
    image = np.random.default_rng(seed).normal(0, 1, (1, *shape)).astype(np.float32)
    found = resample_image(image, made, spacing)  # type: ignore[arg-type]
    for order in permutations(range(3)):
        turned = image.transpose(0, *(1 + a for a in order))[:, ::-1, :, ::-1]
        there: tuple = tuple(made[a] for a in order)
        other = resample_image(turned, there, tuple(spacing[a] for a in order))  # type: ignore[arg-type]
        back = other[:, ::-1, :, ::-1].transpose(0, *(1 + np.argsort(order)))
        np.testing.assert_allclose(back, found, rtol=0, atol=1e-4 * max(1, np.ptp(image)))


@given(st.integers(1, 60), st.integers(1, 60))
def test_weights_are_those_of_a_line_that_may_be_turned_round(size: int, new_size: int) -> None:
    positions = source_positions(size, new_size)
    np.testing.assert_allclose(positions[::-1], size - 1 - positions, atol=1e-9)
    assert (np.diff(positions) >= 0).all()
    for matrix in (linear_matrix(size, new_size), cubic_matrix(size, new_size)):
        assert matrix.shape == (new_size, size)
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-5)
        np.testing.assert_allclose(cubic_matrix(size, size), np.eye(size), atol=1e-6)
    assert linear_matrix(size, new_size).min() >= 0
    # a straight line is met exactly: a weight a tap at most
    line = linear_matrix(size, new_size) @ np.arange(size, dtype=np.float32)
    np.testing.assert_allclose(line, positions, atol=1e-4)


@given(shapes, st.tuples(*[st.integers(1, 20)] * 3), seeds)
def test_labels_take_the_largest_linear_weight(
    shape: tuple[int, ...], made: tuple[int, int, int], seed: int
) -> None:
    labels = np.random.default_rng(seed).integers(0, STRUCTURES + 1, shape).astype(np.uint8)
    weights = np.stack([labels == value for value in range(STRUCTURES + 1)]).astype(float)
    for axis in range(3):
        matrix = linear_matrix(shape[axis], made[axis]).astype(float)
        weights = np.moveaxis(np.tensordot(matrix, weights, (1, axis + 1)), 0, axis + 1)
    found = resample_labels(labels, made)
    if shape == made:
        np.testing.assert_array_equal(found, labels)
    second, first = np.sort(weights, axis=0)[-2:]
    sure = first - second > 1e-5
    np.testing.assert_array_equal(found[sure], weights.argmax(0)[sure])
    # of equal weights the lower value
    tied = (first - second < 1e-7) & (second > 0)
    lowest = (weights > first - 1e-6).argmax(0)
    np.testing.assert_array_equal(found[tied], lowest[tied])


@given(shapes, st.tuples(*[st.integers(1, 20)] * 3), st.data(), seeds)
def test_some_slices_are_those_of_the_whole(
    shape: tuple[int, ...], made: tuple[int, int, int], data: st.DataObject, seed: int
) -> None:
    start = data.draw(st.integers(0, made[0] - 1))
    stop = data.draw(st.integers(start + 1, made[0]))
    volume = np.random.default_rng(seed).normal(0, 10, (2, *shape)).astype(np.float32)
    expected = volume.astype(float)
    for axis in range(3):
        matrix = linear_matrix(shape[axis], made[axis]).astype(float)
        expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis + 1)), 0, axis + 1)
    found = resample_planes(TensorPlanes(torch.from_numpy(volume)), slice(start, stop), made)
    np.testing.assert_allclose(found.numpy(), expected[:, start:stop], atol=1e-3)
