"""NRRD and MHA files by their text headers: that they are what their ending says, in one piece.

Both formats may name another file as the place of their voxels. We read none such: a scan from a
stranger could make any file of this machine its voxels, and what is kept for unchanged inputs
would not notice that the other file changed.

An MHA header's numbers are read here as well: at what is no number ITK's reader stops without a word
and takes zeros, so that `Offset = 3,5 4 5` would move a scan to (3, 0, 0).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

LONGEST = 1 << 16  # bytes of a text header
NRRD_ELSEWHERE = re.compile(rb"^data ?file\s*:=?\s*(.*)$", re.IGNORECASE | re.MULTILINE)
MHA_DATA = re.compile(rb"^\s*ElementDataFile\s*[=:]\s*(.*)$", re.MULTILINE)
MHA_DIMENSIONS = re.compile(rb"^\s*NDims\s*[=:]\s*(\d)\s*$", re.MULTILINE)
MHA_NUMBERS = re.compile(
    rb"^\s*(DimSize|ElementSpacing|ElementSize|Offset|Position|Origin|CenterOfRotation|"
    rb"TransformMatrix|Rotation|Orientation)\s*[=:](.*)$",
    re.MULTILINE,
)
MHA_MATRICES = (b"TransformMatrix", b"Rotation", b"Orientation")


def text_header_problem(path: Path) -> str | None:
    """Why an NRRD or MHA file is not read, as the rest of a sentence; None if its header is sound.

    Files of other endings are not looked into.
    """
    check = {".nrrd": _nrrd_problem, ".mha": _mha_problem}.get(path.suffix)
    if check is None:
        return None
    with path.open("rb") as stream:
        return check(stream.read(LONGEST))


def _nrrd_problem(start: bytes) -> str | None:
    if not start.startswith(b"NRRD000"):
        return "cannot be read as an image: it is no NRRD file (its first bytes are not of one)."
    header = re.split(rb"\r?\n\r?\n", start, maxsplit=1)[0]
    elsewhere = NRRD_ELSEWHERE.search(header)
    return None if elsewhere is None else _elsewhere(elsewhere[1])


def _mha_problem(start: bytes) -> str | None:
    found = MHA_DATA.search(start)
    if found is None:
        return "cannot be read as an image: it is no MHA file (it has no ElementDataFile)."
    if found[1].strip().upper() != b"LOCAL":
        return _elsewhere(found[1])
    header = start[: found.start()]
    dimensions = MHA_DIMENSIONS.search(header)
    axes = int(dimensions[1]) if dimensions else 3
    for line in MHA_NUMBERS.finditer(header):
        count = axes * axes if line[1] in MHA_MATRICES else axes
        if not _holds_numbers(line[2], count):
            name, value = line[1].decode(), line[2].strip().decode("utf-8", "replace")
            return f"has {name} = {value!r}, which is not {count} numbers; repair its header."
    return None


def _holds_numbers(text: bytes, count: int) -> bool:
    words = text.split()
    try:
        return len(words) == count and all(math.isfinite(float(word)) for word in words)
    except ValueError:
        return False


def _elsewhere(name: bytes) -> str:
    shown = name.strip().decode("utf-8", "replace")
    return f"keeps its voxels in another file ({shown}); save it as one file."
