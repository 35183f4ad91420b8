"""Files appear by rename, JSON is validated on the way in, and contents have fingerprints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from renalplan.errors import DatasetError, RenalplanError

TEMPORARY = ".tmp-"  # every unfinished file or folder carries this prefix
UNFINISHED = re.compile(rf"{re.escape(TEMPORARY)}\d+-(.+)")
_unfinished: set[Path] = set()  # those of this process


class Record(BaseModel):
    """Base of everything we keep as JSON: immutable, numbers are finite, unknown keys are refused."""

    # `read_json` lets no NaN through, but pydantic would make one of the text "nan"
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


RecordType = TypeVar("RecordType", bound=BaseModel)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    The temporary name keeps the ending (`.nii.gz`), since writers choose the format by it.
    If the block raises, nothing is left behind and a file that stood at `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    _unfinished.add(temporary)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as problem:
        if problem.errno and not problem.filename:  # a failed write does not know its file
            problem.filename = str(path)
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        _unfinished.discard(temporary)


@contextlib.contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Turn what a library raises when it cannot write `path` into an OSError that says so."""
    try:
        yield
    except errors as problem:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__).rstrip(".")
        raise OSError(
            f"{path} cannot be written ({reason}); is the disk full? Then free some and "
            "run the same command again: it continues."
        ) from None


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; it becomes `path` (replacing it) when the block ends well.

    If the block raises, nothing is left behind, nor are folders that were made to hold it.
    """
    made = [folder for folder in path.parents if not folder.exists()]  # the innermost first
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    _unfinished.add(temporary)
    temporary.mkdir()  # not mkdtemp: its folders are closed to the group
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _unfinished.discard(temporary)
        with contextlib.suppress(OSError):  # one that is not empty stays, with all that hold it
            for folder in made:
                folder.rmdir()


def real_path(path: Path) -> Path:
    """Its absolute name without links; of a link to itself whatever there is, where `resolve` raises."""
    return Path(os.path.realpath(path))


def require_shown(path: Path) -> None:
    """Refuse a file name that cannot be printed as it is: line breaks, a terminal's commands, no UTF-8.

    Raises:
        DatasetError: it has such characters.
    """
    if not path.name.isprintable():
        raise DatasetError(
            f"{path.parent}: the file name {path.name!a} has characters that cannot be shown; rename it."
        )


def remove_unfinished() -> None:
    """Delete what this process is writing, since it ends now."""
    for path in tuple(_unfinished):
        _remove(path)


def remove_leftovers(folder: Path, names: Collection[str] | None = None) -> None:
    """Delete what killed runs left unfinished directly inside `folder`.

    Args:
        folder: It need not be there.
        names: What the files were to be called; None for all, where nobody else may be writing.
    """
    if not folder.is_dir():
        return
    for entry in folder.glob(f"{TEMPORARY}*"):
        match = UNFINISHED.fullmatch(entry.name)
        if names is None or (match and match[1] in names):
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text by rename."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Write UTF-8 text by rename, piece by piece: it need not fit into memory."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(pieces)


def write_json(path: Path, value: Any) -> None:
    """Write JSON (or a Record) by rename, indented for people to read."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=False)
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path, error: type[RenalplanError] = DatasetError) -> Any:
    """Read JSON, in which every number is one (no NaN) and every text can be written again.

    Raises:
        error: the file is missing, unreadable or not JSON, an object has a key twice, or a number is not
            finite; the sentence names the place where there is one.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(
            text, object_pairs_hook=_once_each, parse_constant=_finite, parse_float=_finite
        )
        if "\\ud" in text.lower():  # half of a pair that stands for one character
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except FileNotFoundError:
        raise error(f"{path} does not exist.") from None
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise error(f"{path} cannot be read: {reason}; it must be a file you may read.") from None
    except (UnicodeError, RecursionError) as problem:
        raise error(f"{path} cannot be read: {problem}; repair it.") from None
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, column {problem.colno}"
        raise error(f"{path} is not valid JSON: {place}: {problem.msg}; repair it.") from None
    except ValueError as problem:  # a key twice, a number that is none, or of thousands of digits
        raise error(f"{path} is not valid JSON: {problem}; repair it.") from None


def _finite(text: str) -> float:
    """A number; the standard library also takes NaN and Infinity, which JSON does not have."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no number that counts")
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; the standard library would take the last of two values without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found


def read_record(
    path: Path, kind: type[RecordType], error: type[RenalplanError] = DatasetError
) -> RecordType:
    """Read JSON and check it against its schema.

    Raises:
        error: the file is missing, not JSON, or a key is missing, unknown or of the wrong type.
    """
    return parse_record(read_json(path, error), kind, str(path), error)


def parse_record(
    value: Any, kind: type[RecordType], where: str, error: type[RenalplanError] = DatasetError
) -> RecordType:
    """Check plain JSON values against a schema; `where` names the source in the error."""
    try:
        return kind.model_validate(value)
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        more = f" (and {problem.error_count() - 1} more)" if problem.error_count() > 1 else ""
        raise error(f"{where}: {place}: {first['msg']}{more}.") from None


def content_hash(*paths: Path) -> str:
    """BLAKE2 fingerprint of the files' bytes, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def value_hash(value: Any) -> str:
    """BLAKE2 fingerprint of a JSON-serialisable value or Record."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
