"""Does the score that prediction gives itself rank cases as their Dice does?

    python benchmarks/uncertainty.py --cases 30 --seed 11

Trains two folds of a small plain U-Net on phantoms, predicts others that it never saw with `--uncertainty`
and prints Spearman's rank correlation of each structure's expected Dice with its Dice, and of the case's
score with its smallest Dice. Every second case is given noise beyond the scanner's, from nothing to twice
what training has seen, since patients and protocols of one generator differ less than a clinic's do.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from renalplan.evaluation.dice import structure_dice
from renalplan.files import read_record
from renalplan.images import read_volume, write_volume
from renalplan.inference.options import InferenceOptions
from renalplan.inference.predictor import Predictor
from renalplan.inference.scans import find_scans
from renalplan.inference.uncertainty import FOLDER, CaseUncertainty
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.phantom import make_phantom_dataset
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.training import train
from renalplan.workspace import Workspace

SIZE = (64, 96, 96)
MOST_NOISE_HU = 150.0
SCHEDULE = (
    "validation_iterations=0", "optimizer=adamw", "learning_rate=0.004", "foreground_share=0.67",
)  # fmt: skip


def main() -> None:
    """Train, predict, correlate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("uncertainty_benchmark"))
    parser.add_argument("--cases", type=int, default=30, help="held out")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--steps", type=int, default=600, help="of training, each fold")
    given = parser.parse_args()
    workspace = Workspace.find(given.work)
    data = workspace.root / "raw" / "Dataset902_Uncertainty"
    if not (data / "dataset.json").is_file():
        make_phantom_dataset(
            data, cases=20, test_cases=given.cases, seed=given.seed, size=SIZE, workers=2
        )
        add_noise(data, given.seed)
    model = trained_model(workspace, given.steps)
    out = workspace.root / "segmentations"
    Predictor.from_model(model, None, InferenceOptions(uncertainty=True)).predict_folder(
        list(find_scans(data / "imagesTs", ("CT",))), out
    )
    table = judged(out, data / "labelsTs", model.scheme)
    table.to_csv(workspace.root / "cases.csv", index=False)
    print(correlations(table, list(model.scheme.foreground)))


def add_noise(data: Path, seed: int) -> None:
    """To every second held-out scan; how much is drawn."""
    rng = np.random.default_rng(seed)
    for path in sorted((data / "imagesTs").iterdir())[1::2]:
        volume = read_volume(path)
        noise = rng.normal(0, rng.uniform(0, MOST_NOISE_HU), volume.shape)
        write_volume(path, np.round(volume.array[0] + noise).astype(np.int16), volume.grid)


def trained_model(workspace: Workspace, steps: int) -> ModelFolder:
    """Two folds of a small plain U-Net."""
    options = PlanOptions(gpu_memory_gb=0.12, base_features=12)
    plan_and_preprocess("902", options=options, workspace=workspace)
    settings = [*SCHEDULE, "epochs=10", f"iterations={steps // 10}"]
    for fold in (0, 1):
        trained = train("902", fold, "UNet", settings=settings, workspace=workspace)
    return ModelFolder.open(trained.model)


def judged(out: Path, references: Path, scheme: LabelScheme) -> pd.DataFrame:
    """One row a case: what each structure's Dice was expected to be, and what it is."""
    rows = []
    for number, path in enumerate(sorted(references.iterdir())):
        case = path.name.removesuffix(".nii.gz")
        own = read_record(out / FOLDER / f"{case}.json", CaseUncertainty)
        reference = read_volume(path, labels=True)
        found = read_volume(out / path.name, labels=True).array[0]
        dice = structure_dice(reference.array[0], found, reference.spacing, scheme)
        row: dict[str, object] = {"case": case, "noisy": number % 2 == 1, "score": own.score}
        for name, value in dice.items():
            row |= {f"{name}_expected": own.structures[name].expected_dice, f"{name}_dice": value}
        rows.append(row | {"least_dice": min(dice.values())})
    return pd.DataFrame(rows)


def correlations(table: pd.DataFrame, structures: list[str]) -> str:
    """Spearman's rho: the correlation of the ranks."""
    pairs = {name: (f"{name}_expected", f"{name}_dice") for name in structures}
    pairs["score"] = ("score", "least_dice")
    lines = ["| cases | n | " + " | ".join(pairs) + " |", "|---|" + "---|" * (len(pairs) + 1)]
    groups = {"all": table, "clean": table[~table.noisy], "noisy": table[table.noisy]}
    for name, rows in groups.items():
        found = [rows[a].rank().corr(rows[b].rank()) for a, b in pairs.values()]
        lines.append(f"| {name} | {len(rows)} | " + " | ".join(f"{r:.2f}" for r in found) + " |")
    means = ", ".join(f"{name} {table[f'{name}_dice'].mean():.3f}" for name in structures)
    return "\n".join([*lines, "", f"Mean Dice: {means}."])


if __name__ == "__main__":
    main()
