"""Commands about dataset folders: check one, make one of phantoms."""

from __future__ import annotations

from pathlib import Path

from renalplan.cli.common import (
    add_dask,
    add_task,
    add_workers,
    command,
    make_parser,
    require_folder,
)
from renalplan.workspace import Workspace


@command
def check(arguments: list[str] | None = None) -> int:
    """List every problem of a dataset."""
    parser = make_parser(
        "check", "List every problem of a dataset, a line each.", "renalplan_check 101"
    )
    add_task(parser)
    add_workers(parser, "processes to read with (default: one a core; 0: this one)")
    add_dask(parser, "read")
    given = parser.parse_args(arguments)

    from renalplan.dataset import UNLABELLED, Dataset
    from renalplan.integrity import check_dataset, list_cases
    from renalplan.progress import counter

    dataset = Dataset.open(Workspace.find(given.workspace).dataset_folder(given.task))
    found = list_cases(dataset)[1]
    count = len(found)
    with counter(count, "check") as advance:
        problems = check_dataset(
            dataset, workers=given.workers, dask=given.dask, on_case=lambda _: advance()
        )
    for line in problems:
        print(line)
    extra = sum(case.images[0].parent.name == UNLABELLED for case in found)
    more = f" ({extra} of them unlabelled)" if extra else ""
    print(f"{dataset.name}: {count} cases{more}, {len(problems)} problems.")
    return 2 if problems else 0


@command
def phantom(arguments: list[str] | None = None) -> int:
    """Make a synthetic dataset."""
    parser = make_parser(
        "phantom",
        "Make a dataset of synthetic renal CT with known ground truth.",
        "renalplan_phantom renalplan_workspace/raw/Dataset901_Phantom --cases 10 --test_cases 3",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="dataset folder to make")
    parser.add_argument(
        "--cases", type=int, required=True, metavar="N", help="labelled, for imagesTr"
    )
    parser.add_argument(
        "--test_cases", type=int, default=0, metavar="N", help="for imagesTs, labels in labelsTs"
    )
    parser.add_argument("--unlabelled_cases", type=int, default=0, metavar="N", help="for imagesUn")
    parser.add_argument(
        "--seed", type=int, default=0, help="other seeds, other patients (default: 0)"
    )
    parser.add_argument(
        "--task",
        default="kidney_tumor",
        help="kidney_tumor (the default), artery, compartments (cortex and medulla, two channels), "
        "or boxes (tumor alone, for training from boxes)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="voxels; small ones for a trial, e.g. 64 96 96 (default: a scanner's, 512 x 512 in plane)",
    )
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="mm (default: so that the size holds the kidneys, else drawn as scanners do)",
    )
    parser.add_argument(
        "--single_kidney_share",
        type=float,
        metavar="SHARE",
        help="of patients with one kidney, on average (default: 0.05)",
    )
    parser.add_argument(
        "--from_masks",
        type=Path,
        metavar="FOLDER",
        help="dress these real label maps (1 kidney, 2 tumor) in simulated HU",
    )
    add_workers(parser, "processes (default: this one)")
    given = parser.parse_args(arguments)

    from renalplan.phantom import make_phantom_dataset
    from renalplan.phantom.unfinished import require_free
    from renalplan.progress import counter

    require_folder(given.out)
    require_free(given.out)
    total = given.cases + given.test_cases + given.unlabelled_cases
    with counter(total, "phantom") as advance:
        make_phantom_dataset(
            given.out,
            cases=given.cases,
            seed=given.seed,
            task=given.task,
            size=tuple(given.size) if given.size else None,
            spacing=tuple(given.spacing) if given.spacing else None,
            test_cases=given.test_cases,
            unlabelled_cases=given.unlabelled_cases,
            single_kidney_share=given.single_kidney_share,
            from_masks=given.from_masks,
            workers=given.workers or 0,
            progress=lambda _: advance(),
        )
    print(f"dataset: {given.out}")
    return 0
