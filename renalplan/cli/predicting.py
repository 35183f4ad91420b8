"""The command that segments scans."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from renalplan.cli.common import (
    add_dask,
    add_plugins,
    add_postprocessing,
    add_workers,
    command,
    make_parser,
    trust_plugins,
)
from renalplan.workspace import Workspace

SIZES = ("max_ram", "max_vram")


@command
def predict(arguments: list[str] | None = None) -> int:
    """Segment scans."""
    parser = make_parser(
        "predict",
        "Segment every scan of a folder, averaging a model's folds, and several models of the same "
        "labels. Outputs lie on exactly the scans' own grids. Running it again continues.",
        "renalplan_predict -i scans -o segmentations",
    )
    _add_what(parser)
    _add_how(parser)
    _add_outputs(parser)
    _add_job(parser)
    parsed = parser.parse_args(arguments)

    from renalplan.inference.room import parse_size
    from renalplan.predicting import predict as run

    trust_plugins(parsed)
    given = {name: value for name, value in vars(parsed).items() if name != "plugin"}
    for name in SIZES:
        given[name] = None if given[name] is None else parse_size(given[name], f"--{name}")
    workspace = Workspace.find(given.pop("workspace"))
    report = run(**given, workspace=workspace)
    kept = f", {len(report.kept)} were there already" if report.kept else ""
    count = "1 case" if len(report.done) == 1 else f"{len(report.done)} cases"
    print(f"{count} predicted{kept}: {given['out']}")
    for case, reason in report.failed.items():
        print(f"failed: {case}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _add_what(parser: argparse.ArgumentParser) -> None:
    """What to predict, with which models."""
    parser.add_argument(
        "-i",
        dest="images",
        type=Path,
        required=True,
        help="folder of scans or of DICOM series, or one file",
    )
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder for segmentations")
    parser.add_argument("-m", dest="models", type=Path, nargs="+", help="model folders")
    parser.add_argument("-d", dest="task", help="dataset whose model to use")
    parser.add_argument("-tr", dest="trainers", nargs="+", help="its models by name")
    parser.add_argument(
        "-f", dest="folds", nargs="+", help="folds to average (default: all finished)"
    )
    parser.add_argument(
        "--weights",
        type=float,
        nargs="+",
        metavar="W",
        help="how much each model counts, in their order (default: all alike)",
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
    """How the networks are run."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N, mps")
    parser.add_argument(
        "--step", type=float, default=0.5, help="window distance / patch size (default 0.5)"
    )
    parser.add_argument(
        "--tta",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="average over mirrored copies: a little better, eight times slower (default: no)",
    )
    parser.add_argument(
        "--engine", default="auto", help="auto (OpenVINO on a CPU if installed), torch, openvino"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        help="auto (what the processor is fastest in), fp32, bf16, fp16",
    )
    parser.add_argument("--batch", type=int, default=1, help="patches computed at a time (1)")
    parser.add_argument(
        "--max_ram", metavar="SIZE", help="memory that may be used, e.g. 4G; the rest lies in files"
    )
    parser.add_argument("--max_vram", metavar="SIZE", help="memory of a GPU that may be used")
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write where it is uncertain, and how good it expects itself to be",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """What is written of each case."""
    parser.add_argument(
        "--save_probabilities", action="store_true", help="also write probabilities"
    )
    add_postprocessing(parser)


def _add_job(parser: argparse.ArgumentParser) -> None:
    """How the cases are divided and what is done meanwhile."""
    parser.add_argument("--overwrite", action="store_true", help="predict again what is there")
    parser.add_argument(
        "--parts", type=int, default=1, metavar="N", help="divide the cases among N machines"
    )
    parser.add_argument(
        "--part", type=int, metavar="I", help="which part this machine predicts, 0 to N-1"
    )
    add_dask(parser, "predict")
    add_workers(
        parser,
        "processes that read the next cases while one is computed, a scan more in memory each; "
        "0: everything in one process (default: 1 if there are two cores)",
    )
    add_plugins(parser)
