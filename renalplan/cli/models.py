"""Commands that carry a model from one machine to another, as one file."""

from __future__ import annotations

from pathlib import Path

from renalplan.cli.common import add_plugins, command, make_parser, trust_plugins
from renalplan.workspace import Workspace


@command
def export_model(arguments: list[str] | None = None) -> int:
    """Write a model into one file."""
    parser = make_parser(
        "export_model",
        "Write all that prediction needs of a trained model into one zip, to install elsewhere.",
        "renalplan_export_model -d 101 -tr UNet -o kidney.zip",
    )
    parser.add_argument("-o", dest="out", type=Path, help="default: DATASET__MODEL.zip, here")
    parser.add_argument("-m", dest="model", type=Path, help="model folder")
    parser.add_argument("-d", dest="task", help="dataset whose model to take")
    parser.add_argument("-tr", dest="trainer", help="its model by name")
    parser.add_argument(
        "-f", dest="folds", nargs="+", help="folds to take along (default: all finished)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    add_plugins(parser)
    given = parser.parse_args(arguments)

    from renalplan.sharing import export_model as run

    trust_plugins(given)
    made = run(
        given.out,
        model=given.model,
        task=given.task,
        trainer=given.trainer,
        folds=given.folds,
        overwrite=given.overwrite,
        workspace=Workspace.find(given.workspace),
    )
    print(
        f"{made}: {made.stat().st_size / 1e6:.1f} MB. Elsewhere: renalplan_install_model {made.name}"
    )
    return 0


@command
def install_model(arguments: list[str] | None = None) -> int:
    """Install a model from one file."""
    parser = make_parser(
        "install_model",
        "Check a model's zip and put it into the workspace. Nothing in it can run code.",
        "renalplan_install_model kidney.zip",
    )
    parser.add_argument("archive", type=Path, metavar="ZIP")
    parser.add_argument("--name", help="of the model folder (default: the one it had)")
    parser.add_argument("--overwrite", action="store_true", help="replace a model of that name")
    add_plugins(parser)
    given = parser.parse_args(arguments)

    from renalplan.sharing import install_model as run

    trust_plugins(given)
    model = run(
        given.archive,
        name=given.name,
        overwrite=given.overwrite,
        workspace=Workspace.find(given.workspace),
    )
    print(f"model: {model.path}. Next: renalplan_predict -i IMAGES -o OUT -m {model.path}")
    return 0
