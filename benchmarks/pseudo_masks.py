"""How good are masks made from boxes? Dice against the truth of phantoms, and what the ConvCRF costs.

    python benchmarks/pseudo_masks.py --seed 42

For each margin: the box, its inscribed ellipsoid, Gaussian mixtures, ConvCRF pseudo masks. Every
pseudo-mask method has to beat the ellipsoid.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import cc3d
import numpy as np
import torch
from numpy.typing import NDArray

from renalplan.geometry import Box, box_slices, grow_box
from renalplan.phantom.make import make_case
from renalplan.trainers.boxes import inscribed_ellipsoid
from renalplan.trainers.convcrf import ConvCRF3d
from renalplan.trainers.pseudo_masks import (
    WINDOW_HU,
    CrfSettings,
    PseudoMaskSettings,
    mask_of_box,
)

SIZE, SPACING = (80, 128, 160), (2.0, 2.0, 2.0)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=42, help="of the phantoms")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--margins", type=int, nargs="+", default=[0, 1, 2, 5], help="voxels")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    cost(torch.device(given.device))
    found = list(tumors(given.seed, given.cases))
    print(f"{len(found)} tumors in {given.cases} phantoms of seed {given.seed}, {SPACING[0]:g} mm")
    print(
        "| d (voxels) | box | ellipsoid | gmm | convcrf | convcrf better than ellipsoid | fell back |"
    )
    print("|---|---|---|---|---|---|---|")
    for margin in given.margins:
        print(row(found, margin, torch.device(given.device)), flush=True)


def tumors(seed: int, cases: int) -> Iterator[tuple[NDArray, NDArray, Box]]:
    """Image (1, z, y, x) in 0..1, mask and tight box of every tumor, cut out with surroundings."""
    for index in range(cases):
        case = make_case(seed, index, task="boxes", size=SIZE, spacing=SPACING)
        (image,) = case.images.values()
        low, high = WINDOW_HU
        scaled = np.clip((image - low) / (high - low), 0, 1).astype(np.float32)
        pieces = cc3d.connected_components(np.ascontiguousarray(case.labels), connectivity=26)
        for number, bounds in enumerate(cc3d.statistics(pieces)["bounding_boxes"][1:], start=1):
            z, y, x = ((s.start, s.stop) for s in bounds)
            part = grow_box((z, y, x), (24, 24, 24), scaled.shape)
            inner = [(a - p, b - p) for (a, b), (p, _) in zip((z, y, x), part, strict=True)]
            where = box_slices(part)
            box: Box = (inner[0], inner[1], inner[2])
            yield scaled[where][None], (pieces == number)[where], box


def row(found: list[tuple[NDArray, NDArray, Box]], margin: int, device: torch.device) -> str:
    """Mean Dice of each kind of mask at one margin."""
    scores: dict[str, list[float]] = {}
    fallen = 0
    for image, truth, tight in found:
        box = grow_box(tight, (margin,) * 3, truth.shape)
        masks = {"box": np.ones([b - a for a, b in box], bool)}
        masks["ellipsoid"] = inscribed_ellipsoid(box, box)
        for method in ("gmm", "convcrf"):
            settings = PseudoMaskSettings(method=method)  # type: ignore[arg-type]
            mask, what = mask_of_box(image, box, [box], SPACING, settings, CrfSettings(), device)
            masks[method] = mask
            fallen += what.fell_back and method == "convcrf"
        for name, mask in masks.items():
            shared = (mask & truth[box_slices(box)]).sum()
            scores.setdefault(name, []).append(2 * shared / (mask.sum() + truth.sum()))
    cells = " | ".join(f"{np.mean(values):.3f}" for values in scores.values())
    better = sum(a > b for a, b in zip(scores["convcrf"], scores["ellipsoid"], strict=True))
    return f"| {margin} | {cells} | {better} of {len(found)} | {fallen} |"


def cost(device: torch.device) -> None:
    """Seconds and peak memory of one ConvCRF over 64 x 128 x 128 voxels."""
    torch.set_num_threads(1)
    tumor = torch.rand(1, 1, 64, 128, 128, device=device)
    probabilities, image = torch.cat([1 - tumor, tumor], 1), torch.rand_like(tumor)
    crf = CrfSettings().build()
    assert isinstance(crf, ConvCRF3d)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_mib(device)
    clock = time.process_time if device.type == "cpu" else time.monotonic
    start = clock()
    crf(probabilities, image, (0.7, 0.7, 0.7)).sum().item()
    print(f"ConvCRF, 64 x 128 x 128 voxels on {device}, one thread: {clock() - start:.1f} s, "
          f"{peak_mib(device) - before:.0f} MiB beside its inputs")  # fmt: skip


def peak_mib(device: torch.device) -> float:
    """The most memory this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
