"""Time and memory of renalplan_predict beside nnU-Net's prediction: same weights, patch, step, scans.

    python benchmarks/predict.py --nnunet nnunet_venv/bin

Makes two phantoms (512 x 512 x 100 at 3 mm, 512 x 512 x 270 at 1 mm), trains a plain U-Net of nnU-Net's
size for an hour on small patches so that labels mean something (or takes your model with --model),
writes it as an nnU-Net model too, and runs both programs in turn on each scan. Every run is a process of
its own.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from measuring import BenchmarkError, Cost, nnunet_environment, run_command
from nnunet_model import nnunet_prediction, write_nnunet_model

from renalplan.files import write_json
from renalplan.images import read_volume
from renalplan.model_folder import ModelFolder
from renalplan.phantom import make_phantom_dataset
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.training import train
from renalplan.workspace import Workspace

SCANS = {"100": ((100, 512, 512), (3.0, 0.8, 0.8)), "270": ((270, 512, 512), (1.0, 0.8, 0.8))}
ROWS = {  # name -> options
    "OpenVINO bf16": ("--engine", "openvino", "--precision", "bf16"),
    "OpenVINO fp32": ("--engine", "openvino", "--precision", "fp32"),
    "PyTorch fp32": ("--engine", "torch", "--precision", "fp32"),
}


@dataclass(frozen=True)
class Row:
    """A program with its options, and what it took with each scan."""

    name: str
    command: tuple[str, ...]
    costs: dict[str, list[Cost]]


def main() -> None:
    """Prepare, run in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nnunet", type=Path, required=True, help="bin folder of its environment")
    parser.add_argument("--work", type=Path, default=Path("predict_benchmark"))
    parser.add_argument(
        "--model", type=Path, help="a model of one plain U-Net; else one is trained"
    )
    parser.add_argument("--train_steps", type=int, default=1200)
    parser.add_argument("--train_patch", type=int, nargs=3, default=[32, 96, 96])
    parser.add_argument("--train_only", action="store_true", help="leave the comparison for later")
    parser.add_argument("--spacing", type=float, nargs=3, default=[3.0, 1.6, 1.6])
    parser.add_argument("--patch", type=int, nargs=3, default=[48, 192, 192], help="of the windows")
    parser.add_argument("--scans", nargs="+", choices=sorted(SCANS), default=sorted(SCANS))
    parser.add_argument("--rows", nargs="+", choices=sorted(ROWS), default=list(ROWS))
    parser.add_argument("--tta", action="store_true")
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    work = given.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    model = ModelFolder.open(given.model) if given.model else trained_model(work, given)
    if given.train_only:
        return
    fold = model.finished_folds()[0]
    write_nnunet_model(model, fold, work / "nnunet_model")
    rows = make_rows(model, fold, given)
    for scan in given.scans:
        folder = make_scan(work, scan)
        for row in rows:  # the conversion for OpenVINO, which is kept, and files in the cache
            if "openvino" in row.command and scan == given.scans[0]:
                predict(row, folder, work, scan)
        for _ in range(given.repeats):
            for row in rows:
                row.costs[scan].append(predict(row, folder, work, scan))
                print(f"{scan} slices, {row.name}: {row.costs[scan][-1]}", flush=True)
    print(table(rows, work))


def trained_model(work: Path, given: argparse.Namespace) -> ModelFolder:
    """nnU-Net's plain U-Net (32 to 320 features) after a short training on phantoms.

    Its weights do not depend on the patch it was trained with, so that one can be small.
    """
    workspace = Workspace.find(work / "workspace")
    folder = workspace.root / "raw" / "Dataset901_Benchmark"
    if not (folder / "dataset.json").is_file():
        make_phantom_dataset(
            folder, cases=8, seed=5, size=(96, 128, 160), spacing=(2.0, 2.0, 2.0), workers=2
        )
    options = PlanOptions(planner="nnunet", spacing=tuple(given.spacing))
    plan_and_preprocess("901", options=options, configurations=("3d_fullres",), workspace=workspace)
    settings = [
        "epochs=10", f"iterations={given.train_steps // 10}", "validation_iterations=0",
        "patch_size=" + ",".join(map(str, given.train_patch)), "batch_size=1", "foreground_share=0.5",
        "optimizer=adamw", "learning_rate=0.001",
    ]  # fmt: skip
    trained = train(
        "901", 0, "UNet", settings=settings, configuration="3d_fullres", name="benchmark",
        workspace=workspace,
    )  # fmt: skip
    shutil.copytree(trained.model, work / "model", dirs_exist_ok=True)
    record = ModelFolder.open(trained.model).record
    (stage,) = record.networks
    arguments = record.segmenter.arguments | {"patch_sizes": {stage: given.patch}}
    wide = record.segmenter.model_copy(update={"arguments": arguments})
    write_json(work / "model" / "trainer.json", record.model_copy(update={"segmenter": wide}))
    return ModelFolder.open(work / "model")


def make_scan(work: Path, name: str) -> Path:
    """A folder with one phantom."""
    size, spacing = SCANS[name]
    folder = work / f"scan_{name}"
    if not (folder / "imagesTs").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        make_phantom_dataset(
            folder, cases=1, test_cases=1, seed=6, size=size, spacing=spacing, workers=2
        )
    return folder / "imagesTs"


def make_rows(model: ModelFolder, fold: str, given: argparse.Namespace) -> list[Row]:
    """nnU-Net first."""
    model_folder = given.work.resolve() / "nnunet_model"
    plain = () if given.tta else ("--disable_tta",)
    theirs = nnunet_prediction(given.nnunet, model_folder, *plain)
    program = str(Path(sysconfig.get_path("scripts")) / "renalplan_predict")
    ours = (program, "-m", str(model.path), "-f", fold, "--device", "cpu", "--no-postprocessing")
    tta = ("--tta",) if given.tta else ()
    rows = [Row("nnU-Net", theirs, {name: [] for name in SCANS})]
    return rows + [
        Row(name, (*ours, *tta, *ROWS[name]), {scan: [] for scan in SCANS}) for name in given.rows
    ]


def predict(row: Row, images: Path, work: Path, scan: str) -> Cost:
    """Run one program on one scan, from an empty folder."""
    out = output(row, work, scan)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    command = (*row.command, "-i", str(images), "-o", str(out))
    return run_command(command, nnunet_environment(work), work / f"{out.name}.log")


def output(row: Row, work: Path, scan: str) -> Path:
    """Where its segmentation of a scan is."""
    return work / f"out_{scan}_{row.name.replace(' ', '_')}"


def agreement(first: Path, second: Path) -> tuple[float, float]:
    """Share of equal voxels, and of those that either calls foreground."""
    (one,), (two,) = (sorted(folder.glob("*.nii.gz")) for folder in (first, second))
    a, b = (read_volume(path, labels=True).array for path in (one, two))
    anything = (a > 0) | (b > 0)
    return float((a == b).mean()), float((a == b)[anything].mean()) if anything.any() else 1.0


def table(rows: list[Row], work: Path) -> str:
    """Medians and ratios to nnU-Net."""
    lines = [
        "| slices | program | wall s | ratio | CPU s | peak GB | ratio | equal voxels | of foreground |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    theirs = rows[0]
    for scan in sorted(SCANS):
        if not theirs.costs[scan]:
            continue
        base = _medians(theirs.costs[scan])
        for row in rows:
            wall, cpu, peak = _medians(row.costs[scan])
            same = agreement(output(theirs, work, scan), output(row, work, scan))
            lines.append(
                f"| {scan} | {row.name} | {wall:.1f} | {base[0] / wall:.2f} | {cpu:.0f} | {peak / 1e9:.2f} "
                f"| {base[2] / peak:.2f} | {100 * same[0]:.3f} % | {100 * same[1]:.2f} % |"
            )
    return "\n".join(lines)


def _medians(costs: list[Cost]) -> tuple[float, float, float]:
    found = np.array([(c.wall_s, c.cpu_s, c.peak_bytes) for c in costs])
    wall, cpu, peak = (statistics.median(column) for column in found.T)
    return wall, cpu, peak


if __name__ == "__main__":
    try:
        main()
    except BenchmarkError as problem:
        raise SystemExit(str(problem)) from None
