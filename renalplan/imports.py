"""Import paths as data: `module:Class` strings from plans, model folders and the command line.

A file from a stranger must not be able to run code. So a path is only followed into renalplan itself,
into installed packages that announce themselves as renalplan trainers, and into modules the user
named on the command line; and what is found there must be a class of the kind asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TypeVar

from renalplan.errors import ModelError, UsageError

TRAINERS = "renalplan.trainers"
Kind = TypeVar("Kind")

_trusted: set[str] = set()


def trainer_entry_points() -> dict[str, EntryPoint]:
    """Installed trainers by name."""
    return {point.name: point for point in entry_points(group=TRAINERS)}


def trust(module: str) -> None:
    """Allow classes of this module, and of modules inside it, because the user named it.

    The current folder becomes importable, so that a trainer can be a file of the user's own.

    Raises:
        UsageError: there is no such module.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        there = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise UsageError(
            f"there is no module {module!r}, neither installed nor in the current folder {here}."
        )
    _trusted.add(module)


def trusted() -> list[str]:
    """The modules that the user named, for another process that does the same work."""
    return sorted(_trusted)


def is_trusted(module: str) -> bool:
    """Whether code of this module may be loaded because a file asks for it."""
    announced = {point.module.split(".")[0] for point in trainer_entry_points().values()}
    roots = {"renalplan", *announced, *_trusted}
    return any(module == root or module.startswith(f"{root}.") for root in roots)


def load_class(path: str, kind: type[Kind], where: str) -> type[Kind]:
    """The class that `module:Class` means.

    Args:
        path: Import path.
        kind: What the class must be derived from.
        where: The file or option the path came from, for the error.

    Raises:
        ModelError: the path is malformed, not trusted, missing, or not a class of this kind.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ModelError(f"{where}: {path!r} is not of the form package.module:Class.")
    if not is_trusted(module_name):
        raise ModelError(
            f"{where} asks for code of the module {module_name!r}, which is not part of renalplan; "
            f"if you know and trust it, add --plugin {module_name}."
        )
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except ImportError as problem:
        raise ModelError(f"{where}: {module_name} cannot be imported: {problem}.") from None
    except AttributeError:
        raise ModelError(f"{where}: {module_name} has no class {class_name}.") from None
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ModelError(f"{where}: {path} is not a class derived from {kind.__name__}.")
    return found


def named_on_command_line(path: str) -> str:
    """Trust `module:Class` as typed by the user, and return it.

    Raises:
        UsageError: it has no module part.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise UsageError(f"{path!r} is not of the form package.module:Class.")
    trust(module)
    return path
