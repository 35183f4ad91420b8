"""What all commands share: errors become one sentence and an exit status; common options."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from renalplan.ending import end_quickly
from renalplan.errors import RenalplanError, UsageError
from renalplan.interruption import listening

SIGPIPE_STATUS = 141  # what a shell reports of a command whose reader went away
# another kind of entry than belongs there, a link to itself, a name no file system takes
WRONG_KIND = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG)
Main = Callable[[list[str] | None], int]


def command(function: Main) -> Main:
    """Turn our errors, and the system's, into one sentence and an exit status."""

    @wraps(function)
    def run(arguments: list[str] | None = None) -> int:
        name = f"renalplan_{function.__name__}"
        if arguments is None:  # it is the whole program
            end_quickly()
        told: list[int] = []

        def say_so(number: int) -> None:
            if not told:
                _say(
                    f"{name}: {signal.Signals(number).name}: interrupted; the same command continues."
                )
            told.append(number)

        with listening(say_so, to_the_end=arguments is None) as interruption:
            try:
                with logging_to_stderr():
                    status = function(arguments)
                    sys.stdout.flush()  # here, where a reader that has gone away can be noticed
                    return status
            except BaseException as problem:
                number = interruption.number  # of what a signal raised, a library may make anything
                if number is None and isinstance(problem, KeyboardInterrupt):
                    number = signal.SIGINT
                if number is None:
                    return _failed(name, problem)
                say_so(number)
                return 128 + number

    return run


def _failed(name: str, problem: BaseException) -> int:
    """Say what went wrong; a defect is raised on."""
    if isinstance(problem, BrokenPipeError):  # `renalplan_train --help-trainer UNet | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SIGPIPE_STATUS
    if isinstance(problem, RenalplanError):
        _say(f"{name}: {problem}")
        return problem.exit_status
    if isinstance(problem, OSError):
        _say(f"{name}: {_system_reason(problem)}")
        return 1
    if isinstance(problem, MemoryError):
        what = f" ({problem})" if str(problem) else ""
        _say(f"{name}: memory ran out{what}; free some, or ask for less at a time.")
        return 1
    raise problem


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")


class _ToStderr(logging.StreamHandler):
    """Writes to what standard error is now: callers in one process may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr  # not setStream: it flushes the old one, which may be closed
        super().emit(record)


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show what our own modules say, once: a library may have given the root logger a handler too."""
    logger = logging.getLogger("renalplan")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        handler = _ToStderr()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    passed_on = logger.propagate
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = passed_on


def _system_reason(problem: OSError) -> str:
    where = f" while writing {problem.filename}" if problem.filename else ""
    if problem.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return f"no space left{where}; free some and run the same command again: it continues."
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        place = f" for {problem.filename}" if problem.filename else ""
        return f"no permission{place}; choose another folder or change its permissions."
    if problem.errno in WRONG_KIND and problem.filename:
        place = problem.filename2 or problem.filename
        reason = (problem.strerror or "").lower()
        return (
            f"{place} cannot be used ({reason}); move away what is there, or choose another name."
        )
    return f"{problem}"


class _Parser(argparse.ArgumentParser):
    """Answers a wrong line with a sentence, as everything else does; argparse lists all options first."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help shows how.\n")


def make_parser(name: str, text: str, example: str) -> argparse.ArgumentParser:
    """A command's parser with help, an example, and the workspace option where it has one."""
    parser = _Parser(
        prog=f"renalplan_{name}",
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"renalplan {version('renalplan')}")
    commands = ("phantom", "evaluate", "compare", "ensemble", "surgery", "report", "dicom_seg")
    if name not in commands:
        parser.add_argument(
            "--workspace",
            help="folder with raw/, preprocessed/ and results/ "
            "(default: RENALPLAN_WORKSPACE, else ./renalplan_workspace)",
        )
    return parser


def require_folder(out: Path) -> None:
    """An output must be a folder, or a name still free.

    Raises:
        UsageError: it, or what is to hold it, is a file or a link that leads nowhere.
    """
    there = next((path for path in (out, *out.parents) if os.path.lexists(path)), out)
    if os.path.lexists(there) and not there.is_dir():
        where = "" if there == out else f" ({there} is none)"
        raise UsageError(f"output {out} is not a folder{where}; choose another name.")


def add_task(parser: argparse.ArgumentParser) -> None:
    """The positional TASK."""
    parser.add_argument("task", metavar="TASK", help="dataset folder, its name, or its number")


def add_workers(parser: argparse.ArgumentParser, what: str) -> None:
    """--workers, with what it means here."""
    parser.add_argument("--workers", type=int, metavar="N", help=what)


def add_dask(parser: argparse.ArgumentParser, what: str) -> None:
    """--dask, with what the cluster's workers do."""
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help=f"dask scheduler whose workers {what}; they must see the same files",
    )


def add_postprocessing(parser: argparse.ArgumentParser) -> None:
    """--postprocessing and --no-postprocessing."""
    parser.add_argument(
        "--postprocessing",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="apply the rules in the model's postprocessing.json, if it has one (default: yes)",
    )


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """--plugin, for models with code of the user's own."""
    parser.add_argument(
        "--plugin",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules a model may take code from",
    )


def trust_plugins(given: argparse.Namespace) -> None:
    """Allow the modules that `add_plugins` let the user name."""
    from renalplan.imports import trust

    for module in given.plugin:
        trust(module)
