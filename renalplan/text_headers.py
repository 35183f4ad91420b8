"""NRRD and MHA files by their text headers: that they are what their ending says, in one piece.

Both formats may name another file as the place of their voxels. We read none such: a scan from a
stranger could make any file of this machine its voxels, and what is kept for unchanged inputs
would not notice that the other file changed.
"""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 1 << 16  # bytes of a text header
NRRD_ELSEWHERE = re.compile(rb"^data ?file\s*:=?\s*(.*)$", re.IGNORECASE | re.MULTILINE)
MHA_DATA = re.compile(rb"^\s*ElementDataFile\s*[=:]\s*(.*)$", re.MULTILINE)


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
    return None if found[1].strip().upper() == b"LOCAL" else _elsewhere(found[1])


def _elsewhere(name: bytes) -> str:
    shown = name.strip().decode("utf-8", "replace")
    return f"keeps its voxels in another file ({shown}); save it as one file."
