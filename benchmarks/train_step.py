"""Our UNet trainer's step beside nnU-Net's own trainer: same network, patch, batch and cases.

    python benchmarks/train_step.py --nnunet nnunet_venv/bin                  # on the CPU, minutes
    python benchmarks/train_step.py --nnunet nnunet_venv/bin --device cuda --patch 128 128 128 \\
        --features 32 320 --steps 100 --workers 15

Both programs preprocess the same cases at nnU-Net's spacing. Then, in turns and each in a process of its
own, after a warm-up: the trainer's step, its loader alone, and its network alone on one batch, which is
the ceiling. Medians of `--repeats` runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import BenchmarkError, nnunet_environment, run_command
from nnunet_model import nnunet_architecture
from preprocess import (
    CONFIGURATION,
    DATASET,
    HOW_TO_INSTALL,
    NNUNET_COMMAND,
    find_nnunet,
    link_dataset,
    nnunet_spacing,
)

from renalplan.dataset import Dataset
from renalplan.errors import RenalplanError
from renalplan.phantom import make_phantom_dataset
from renalplan.plan import Plan
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.workspace import Workspace

HERE = Path(__file__).parent
WHATS = ("step", "loader", "network")
GB = 1024**3


@dataclass(frozen=True)
class Side:
    """One program.

    Attributes:
        name: What the table calls it.
        command: Its measuring script, but for what is measured and where the result goes.
        environment: What is set in addition to this process' environment.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]


def main() -> None:
    """Prepare, measure in turns, print the table."""
    given = parse()
    nnunet = find_nnunet(given.nnunet)
    if nnunet is None:
        raise BenchmarkError(HOW_TO_INSTALL)
    work = given.work.resolve()
    (work / "logs").mkdir(parents=True, exist_ok=True)
    sides = prepare(given, nnunet, work)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {
        what: {side.name: [] for side in sides} for what in given.what
    }
    for number in range(given.repeats):
        for what in given.what:
            for side in sides:
                result = measure(side, what, work, number)
                found[what][side.name].append(result)
                print(f"{side.name}, {what}: {result}", file=sys.stderr, flush=True)
    print(heading(given))
    print(table(found, [side.name for side in sides], given))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nnunet", type=Path, help="bin folder of nnU-Net's virtual environment")
    parser.add_argument("--work", type=Path, default=Path("train_step_benchmark"))
    parser.add_argument("--dataset", type=Path, help="in nnU-Net's raw layout; else phantoms")
    parser.add_argument("--cases", type=int, default=4, help="phantoms")
    parser.add_argument("--size", type=int, nargs=3, default=[160, 320, 320], help="of a phantom")
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 128, 128])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument(
        "--features", type=int, nargs=2, default=[8, 80], metavar=("FIRST", "MOST"),
        help="channels of the network; nnU-Net's own are 32 320",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=20, help="as many again are the warm-up")
    parser.add_argument("--workers", type=int, default=2, help="data processes of each side")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--what", nargs="+", choices=WHATS, default=list(WHATS))
    parser.add_argument("--json", type=Path, help="also write every number here")
    given = parser.parse_args()
    if min(given.steps, given.repeats, given.workers, given.batch) < 1:
        parser.error("--steps, --repeats, --workers and --batch must be at least 1")
    return given


def prepare(given: argparse.Namespace, nnunet: Path, work: Path) -> tuple[Side, Side]:
    """Preprocess the same cases by both, with one network; what is there already is kept."""
    folder = given.dataset
    if folder is None:
        folder = work / "phantoms"
        if not (folder / "dataset.json").is_file():
            make_phantom_dataset(
                folder, cases=given.cases, seed=5, size=tuple(given.size),
                spacing=(1.5, 0.8, 0.8), workers=given.workers,
            )  # fmt: skip
    dataset = Dataset.open(link_dataset(folder, work))
    theirs = work / "nnunet_preprocessed" / DATASET
    count = str(given.workers)
    if not (theirs / f"nnUNetPlans_{CONFIGURATION}").is_dir():
        theirs.parent.mkdir(parents=True, exist_ok=True)
        command = (
            *(str(nnunet / NNUNET_COMMAND), "-d", "901", "-c", CONFIGURATION),
            *("-np", count, "-npfp", count, "--no_pbar"),
        )
        run_command(command, nnunet_environment(work), work / "logs" / "preprocess.txt")
    z, y, x = nnunet_spacing(work, dataset)
    first, most = given.features
    options = PlanOptions(
        planner="nnunet", spacing=(z, y, x), base_features=first, max_features=most
    )
    workspace = Workspace.find(work / "workspace")
    plan_and_preprocess(
        str(dataset.folder), options=options, configurations=[CONFIGURATION],
        workspace=workspace, workers=given.workers, replan=True,
    )  # fmt: skip
    plan = Plan.load(workspace.plan_folder(DATASET, "nnunet") / "plan.json")
    return nnunet_side(given, nnunet, work, theirs, plan), our_side(given, work, dataset)


def nnunet_side(
    given: argparse.Namespace, nnunet: Path, work: Path, theirs: Path, plan: Plan
) -> Side:
    """nnU-Net, told to train our plan's network on the given patch and batch."""
    plans = json.loads((theirs / "nnUNetPlans.json").read_text())
    network = plan.stage(CONFIGURATION).network
    plans["configurations"][CONFIGURATION] |= {
        "patch_size": given.patch,
        "batch_size": given.batch,
        "architecture": nnunet_architecture(network.arguments),
    }
    path = work / "measured_plans.json"
    path.write_text(json.dumps(plans))
    command = (
        str(nnunet / "python"), str(HERE / "nnunet_steps.py"), "--plans", str(path),
        "--dataset_json", str(theirs / "dataset.json"), "--configuration", CONFIGURATION,
        "--steps", str(given.steps), "--device", given.device,
    )  # fmt: skip
    environment = nnunet_environment(work) | {"nnUNet_n_proc_DA": str(given.workers)}
    return Side("nnU-Net", command, environment)


def our_side(given: argparse.Namespace, work: Path, dataset: Dataset) -> Side:
    """renalplan's UNet trainer."""
    command = (
        sys.executable, str(HERE / "our_steps.py"), "--dataset", str(dataset.folder),
        "--workspace", str(work / "workspace"), "--configuration", CONFIGURATION,
        "--patch", *map(str, given.patch), "--batch", str(given.batch),
        "--steps", str(given.steps), "--workers", str(given.workers), "--device", given.device,
    )  # fmt: skip
    return Side("renalplan", command, {})


def measure(side: Side, what: str, work: Path, number: int) -> dict[str, Any]:
    """One run: seconds a step, bytes of the process tree at the peak, and the GPU's figures."""
    name = f"{side.name}_{what}_{number}"
    out = work / f"{name}.json"
    out.unlink(missing_ok=True)
    command = (*side.command, "--what", what, "--out", str(out))
    cost = run_command(command, side.environment, work / "logs" / f"{name}.txt")
    return json.loads(out.read_text()) | {"peak_bytes": cost.peak_bytes}


# ---------------------------------------------------------------- report


def heading(given: argparse.Namespace) -> str:
    """What was measured, on what."""
    where = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    patch = " x ".join(map(str, given.patch))
    first, most = given.features
    return (
        f"{where}, patch {patch}, batch {given.batch}, {first} to {most} features, "
        f"{given.workers} workers, {given.steps} steps after as many, {given.repeats} runs of each\n"
    )


def table(
    found: dict[str, dict[str, list[dict[str, Any]]]], names: list[str], given: argparse.Namespace
) -> str:
    """Medians as markdown; ratios are ours over theirs."""
    lines = [f"| | {' | '.join(names)} | ratio |", "|---|---|---|---|"]

    def medians(what: str, key: str) -> list[float | None]:
        columns = [[run[key] for run in found[what][name]] for name in names]
        return [None if None in column else statistics.median(column) for column in columns]

    def row(title: str, values: list[float | None], form: str = "{:.2f}") -> None:
        shown = ["" if value is None else form.format(value) for value in values]
        theirs, ours = values
        ratio = f"{ours / theirs:.2f}" if theirs and ours else ""
        lines.append(f"| {title} | {' | '.join(shown)} | {ratio} |")

    seconds = {what: medians(what, "seconds") for what in found}
    titles = {"step": "trainer's step, iterations/s", "network": "network alone, iterations/s"}
    for what, title in titles.items():
        if what in seconds:
            row(title, [1 / s if s else None for s in seconds[what]])
            spent = medians(what, "cpu_s")
            row(title.replace("iterations/s", "CPU seconds"), spent)
    if "step" in seconds and "network" in seconds:
        pairs = zip(seconds["step"], seconds["network"], strict=True)
        row("step, share of network alone", [100 * b / a for a, b in pairs if a and b], "{:.0f} %")
    if "loader" in seconds:
        rates = [given.batch / s if s else None for s in seconds["loader"]]
        row("loader alone, patches/s", rates, "{:.1f}")
        spent = [s and given.batch / s for s in medians("loader", "cpu_s")]
        row("loader alone, patches a CPU second", spent, "{:.1f}")
    if "step" in seconds:
        row("peak memory, all processes, GB", [b and b / GB for b in medians("step", "peak_bytes")])
        if given.device.startswith("cuda"):
            row("peak GPU memory, GB", [b and b / GB for b in medians("step", "gpu_bytes")])
            row("GPU utilisation", medians("step", "gpu_load"), "{:.0f} %")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except (BenchmarkError, RenalplanError) as problem:
        raise SystemExit(str(problem)) from None
