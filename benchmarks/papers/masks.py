"""Group training's Table 3: boxes, pseudo masks and fusion masks against the truth of the training cases.

Measuring reads the labels that training does not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from renalplan.files import read_record
from renalplan.model_folder import ModelFolder
from renalplan.store import open_items
from renalplan.trainers.boxes import TumorBoxes, inside_boxes, on_item, paint_ellipsoids
from renalplan.trainers.relabelled import is_relabelled, relabelled

TABLE_3 = {0: (".666", ".862", ".874"), 5: (".466", ".801", ".810")}  # the paper's
KINDS = ("box", "ellipsoid", "pseudo_masks", "fusion")


def mask_table(stores: Path, results: Path, seeds: list[int]) -> str:
    """Mean Dice of each kind of mask over the training cases of fold 0, by margin.

    Args:
        stores: The plan's folder.
        results: Folder of the dataset's models.
        seeds: Whose models to look at.
    """
    lines = [
        "### Masks of the training cases, mean Dice [the paper's]",
        "",
        "| d (voxels) | box | ellipsoid | pseudo masks | fusion masks |",
        "|---|---|---|---|---|",
    ]
    for margin, (box, pseudo, fused) in TABLE_3.items():
        models = [results / f"paper_group_d{margin}_vwce_100_s{seed}" for seed in seeds]
        found = [_measure(model, stores) for model in models if (model / "trainer.json").is_file()]
        if found:
            means = [f"{np.mean([scores[kind] for scores in found]):.3f}" for kind in KINDS]
            cells = zip(means, (f" [{box}]", "", f" [{pseudo}]", f" [{fused}]"), strict=True)
            lines.append(f"| {margin} | " + " | ".join(a + b for a, b in cells) + " |")
    return "\n".join([*lines, ""])


def _measure(path: Path, stores: Path) -> dict[str, float]:
    model = ModelFolder.open(path)
    stage = model.plan.run(model.record.configuration)[-1]
    fold = model.fold_folder("0")
    boxes = read_record(fold / "boxes" / "boxes.json", TumorBoxes).boxes
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for item in open_items(stores / stage.name, tuple(boxes)):
        truth = np.asarray(item.labels[0]) > 0
        here, shape = on_item(boxes[item.case], item, model.plan.order), item.item.shape
        scores["box"].append(_dice(inside_boxes(here, shape), truth))
        scores["ellipsoid"].append(_dice(paint_ellipsoids(here, shape), truth))
        for phase in ("pseudo_masks", "fusion"):
            if is_relabelled(item, fold / phase):
                made = np.asarray(relabelled(item, fold / phase).labels[0]) > 0
                scores[phase].append(_dice(made, truth))
    return {kind: float(np.mean(values)) for kind, values in scores.items() if values}


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * (first & second).sum() / max(1, first.sum() + second.sum()))
