"""`--labels`: which structures are scored, in words.

A dataset.json (or its folder) first, if it is not the one beside the references; then any of
`kidney` (a structure of it), `mass=2,3` (a name and its values), `kits` (the classes of `kits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from renalplan.errors import UsageError
from renalplan.evaluation.cases import present_values
from renalplan.evaluation.kits import TOLERANCES_MM, hierarchical
from renalplan.evaluation.structures import Structures, find_description, find_structures
from renalplan.evaluation.tolerance import Tolerance
from renalplan.images import read_volume
from renalplan.labels import LabelScheme

KITS = "kits"


def choose_structures(
    given: LabelScheme | Path | None,
    labels: Sequence[str],
    tolerance: Tolerance | None,
    references: Path,
    files: Iterable[Path],
) -> Structures:
    """What is scored, and how far off a surface may be.

    Args:
        given: As in `find_structures`; a path among the labels does the same.
        labels: Words as above; none takes all structures that there are.
        tolerance: None: that of the words, else the usual one.
        references: Folder of the reference label files.
        files: As in `find_structures`.

    Raises:
        UsageError: a word is not of these forms, names no structure or a value that neither dataset.json
            nor any file has, or needs a dataset.json; the tolerance names a structure that is not scored.
        DatasetError: as `find_structures`.
    """
    words = list(labels)
    if given is None and words and _is_description(words[0]):
        given = Path(words.pop(0))
    unnamed = given is None and find_description(references) is None
    base = None if words and unnamed else find_structures(given, references, files)
    files = list(files)
    found = base if base is not None and not words else _choose(words, base, files)
    if tolerance is None:
        return replace(found, tolerance=Tolerance(TOLERANCES_MM if KITS in words else {}))
    tolerance.require_known(found.scheme.foreground)
    return replace(found, tolerance=tolerance)


def _is_description(word: str) -> bool:
    path = Path(word)
    return "=" not in word and (path.is_file() or (path / "dataset.json").is_file())


def _choose(words: list[str], base: Structures | None, files: list[Path]) -> Structures:
    chosen: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, is_own, values = word.partition("=")
        if is_own:
            found = {name: _values(word, values)}
            _require_known(word, found[name], base, files)
        elif base is None:
            raise UsageError(
                f"--labels {word}: there is no dataset.json that names structures; give one, its "
                "folder, or NAME=VALUES such as tumor=2."
            )
        elif word == KITS:
            found = hierarchical(base.scheme)
        elif word in base.scheme.foreground:
            found = {word: base.scheme.foreground[word]}
        else:
            raise UsageError(
                f"--labels {word}: there is no such structure (nor file or folder); there are "
                f"{', '.join(base.scheme.foreground)}."
            )
        if twice := found.keys() & chosen.keys():
            raise UsageError(f"--labels: {min(twice)} is named twice; give every name once.")
        chosen |= found
    scheme = LabelScheme(
        names=tuple(chosen),
        values=tuple(chosen.values()),
        ignore=None if base is None else base.scheme.ignore,
    )
    if base is None:
        return Structures(scheme=scheme, source="--labels")
    declared = tuple(sorted({*base.declared, *scheme.all_values})) if base.declared else ()
    source = f"{base.source} and --labels" if base.source else "--labels"
    return replace(base, scheme=scheme, source=source, declared=declared)


def _require_known(
    word: str, values: tuple[int, ...], base: Structures | None, files: list[Path]
) -> None:
    """Refuse a value that dataset.json does not declare and no file holds: it is mistyped."""
    declared = set() if base is None else {*base.declared, *base.scheme.all_values}
    unknown = set(values) - declared
    for path in files:
        if not unknown:
            return
        unknown -= set(present_values(read_volume(path, labels=True).array[0]))
    if unknown and files:
        nor = f", and {base.source} does not declare it" if base is not None else ""
        raise UsageError(f"--labels {word}: no file holds the value {min(unknown)}{nor}.")


def _values(word: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not word.partition("=")[0] or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise UsageError(
            f"--labels {word}: needs the form NAME=VALUES with label values above 0, e.g. mass=2,3."
        )
    return tuple(sorted({int(part) for part in parts}))
