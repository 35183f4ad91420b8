"""A progress bar with the time left, on standard error, so that output can be piped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")


@contextmanager
def counter(total: int, what: str, show: bool = True) -> Iterator[Callable[[], None]]:
    """A bar over `total` things; call what it yields once a thing."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not show or total == 0,
    )
    with bar:
        line = bar.add_task(what, total=total)
        yield lambda: bar.update(line, advance=1)


def track(items: Iterable[Item], total: int, what: str, show: bool = True) -> Iterator[Item]:
    """Yield the items, showing how many of `total` are done and how long the rest will take."""
    with counter(total, what, show) as advance:
        for item in items:
            yield item
            advance()
