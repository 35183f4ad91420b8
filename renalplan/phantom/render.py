"""Renders a drawn patient into images, labels and structure masks, slab by slab.

A slab of fine samples is painted, averaged to voxels (partial volume), blurred, and noise is added.
Slabs bound the memory: a 512x512x834 scan needs little more than its results.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from renalplan.phantom.anatomy import NOISE, Patient, generator
from renalplan.phantom.background import paint_background
from renalplan.phantom.canvas import Canvas, block_mean
from renalplan.phantom.case import PhantomCase, Truth, TumorTruth
from renalplan.phantom.kidneys import SIDES
from renalplan.phantom.painter import STRUCTURES, THINNEST_ARTERY_MM, paint_kidneys
from renalplan.phantom.scanner import Noise, Sampling, blur, factors_for, to_stored
from renalplan.phantom.shapes import Tubes
from renalplan.phantom.tasks import TASKS, join_labels
from renalplan.phantom.tissue import PHASES, Values

SLAB_SAMPLES = 6_000_000  # fine samples per slab: some 300 MB at work


def render_patient(
    patient: Patient,
    sampling: Sampling,
    *,
    phases: tuple[str, ...],
    task: str,
    seed: int,
    index: int,
) -> PhantomCase:
    """Render a patient on a sampling.

    Args:
        patient: What to render.
        sampling: Where the voxels are.
        phases: Contrast phases; one image each, registered, with noise of its own.
        task: Decides the labels.
        seed: For the noise.
        index: For the noise.
    """
    images = {phase: np.empty(sampling.shape, np.int16) for phase in phases}
    structures = {name: np.zeros(sampling.shape, np.bool_) for name in STRUCTURES}
    labels = np.zeros(sampling.shape, np.uint8)
    noises = {
        phase: Noise(
            generator(seed, index, NOISE + PHASES.index(phase)),
            sampling.shape[1:],
            sampling.spacing,
        )
        for phase in phases
    }
    sums = dict.fromkeys(STRUCTURES, 0.0)
    lines = centreline_mask(patient.arteries, sampling)
    factors = factors_for(sampling.spacing)
    for place, canvas in slabs(sampling, patient.values, phases, factors=factors):
        paint_background(canvas, patient.abdomen)
        paint_kidneys(canvas, patient)
        shares = {name: block_mean(share, factors) for name, share in canvas.tracked.items()}
        for name, share in shares.items():
            structures[name][place] = share >= 0.5
            sums[name] += float(share.sum(dtype=np.float64))
        if "artery" in shares:
            # an annotator follows a vessel that voxels are too coarse for
            structures["artery"][place] |= lines[place] & (shares["artery"] > 0.05)
        labels[place] = join_labels(task, shares, structures["artery"][place])
        scan_slab(canvas, sampling, noises, images, place, factors)
    voxel_ml = float(np.prod(sampling.spacing)) / 1000
    return PhantomCase(
        images=images,
        structures=structures,
        labels=labels,
        grid=sampling.grid,
        spacing=sampling.spacing,
        label_names=TASKS[task].labels,
        truth=_truth(patient, {name: total * voxel_ml for name, total in sums.items()}),
    )


def slabs(
    sampling: Sampling,
    values: Values,
    phases: tuple[str, ...],
    *,
    factors: tuple[int, int, int],
    scale: float = 1.0,
) -> Iterator[tuple[slice, Canvas]]:
    """Empty canvases that together cover a sampling, and the slices each stands for.

    Args:
        sampling: The scan's voxels.
        values: Tissue values.
        phases: Images per canvas.
        factors: Fine samples per voxel and axis.
        scale: Patient mm per scan mm, for a trunk fitted to a real patient.
    """
    fine = [step / factor for step, factor in zip(sampling.spacing, factors, strict=True)]
    axes = []
    for axis in range(3):
        first = sampling.origin[axis] - (factors[axis] - 1) / 2 * fine[axis]
        axes.append((first + fine[axis] * np.arange(sampling.shape[axis] * factors[axis])) * scale)
    per_slice = len(axes[1]) * len(axes[2]) * factors[0]
    step = max(1, round(SLAB_SAMPLES / per_slice))
    spacing = (fine[0] * scale, fine[1] * scale, fine[2] * scale)
    for start in range(0, sampling.shape[0], step):
        stop = min(start + step, sampling.shape[0])
        z = axes[0][start * factors[0] : stop * factors[0]]
        yield slice(start, stop), Canvas(z, axes[1], axes[2], spacing, values, phases)


def scan_slab(
    canvas: Canvas,
    sampling: Sampling,
    noises: dict[str, Noise],
    images: dict[str, NDArray[np.int16]],
    place: slice,
    factors: tuple[int, int, int],
) -> None:
    """Average, blur and add noise; the result goes into the slab's slices of `images`."""
    for phase, painted in canvas.hu.items():
        image = blur(block_mean(painted, factors), sampling.spacing)
        image += noises[phase].slices(image.shape[0])
        images[phase][place] = to_stored(image)


def centreline_mask(trees: tuple[Tubes, ...], sampling: Sampling) -> NDArray[np.bool_]:
    """Voxels that the centreline of a labelled artery runs through."""
    mask = np.zeros(sampling.shape, np.bool_)
    step = 0.5 * min(sampling.spacing)
    for tree in trees:
        for piece in np.flatnonzero(2 * tree.start_radius >= THINNEST_ARTERY_MM):
            start, end = tree.start[piece], tree.end[piece]
            count = 2 + int(np.linalg.norm(end - start) / step)
            points = start + np.linspace(0, 1, count)[:, None] * (end - start)
            index = np.rint((points - sampling.origin) / sampling.spacing).astype(int)
            inside = ((index >= 0) & (index < sampling.shape)).all(axis=1)
            mask[tuple(index[inside].T)] = True
    return mask


def _truth(patient: Patient, volumes: dict[str, float]) -> Truth:
    kidney_ml = {
        side: volumes[f"kidney_{side}"]
        for side in SIDES
        if any(kidney.side == side for kidney in patient.kidneys)
    }
    return Truth(
        kidney_count=len(patient.kidneys),
        kidney_ml=kidney_ml,
        cortex_ml=volumes["cortex"],
        medulla_ml=volumes["medulla"],
        artery_count=patient.artery_count,
        artery_ml=sum(tree.volume_ml for tree in patient.arteries),
        tumors=tuple(
            TumorTruth(
                side=tumor.side,
                histology=tumor.histology,
                diameter_mm=tumor.diameter_mm,
                volume_ml=tumor.volume_ml,
                contact=tumor.contact,
                centre_mm=(float(tumor.centre[0]), float(tumor.centre[1]), float(tumor.centre[2])),
            )
            for tumor in patient.tumors
        ),
    )
