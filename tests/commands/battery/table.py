"""docs/robustness.md: what every row of the battery was answered."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from battery.row import Row

PAGE = Path(__file__).parents[3] / "docs/robustness.md"
WRITE = "pytest tests/commands/test_battery.py --write-robustness"
ACCEPTED = "accepted"
HEAD = f"""# Bad input and what it is answered

Made by `{WRITE}` from the rows in `tests/commands/battery/`,
which `make test` runs: {{rows}} command lines before {{faults}} kinds of input, nearly all of them bad. Every answer is one sentence
that names what is wrong (`check` lists all problems), and for each row the test holds that

* the exit status is the number behind the command: 2 where something must be given or mended first, 1 where a case failed and the rest of
  the job was done, 0 where the input is unusual but good;
* no file is changed but those that the command is there to write, and no unfinished one is left;
* nothing of the file ran as code, and nothing printed a traceback, a terminal's commands or a library's own remarks.

FILE stands for the bad file, # for a measured number. Another fault is a line in one of the lists there, another command that
reads such files a line in its readers.
"""


@dataclass(frozen=True)
class Answer:
    """What a row's command returned and said."""

    row: Row
    status: int
    said: str


def cell(answer: Answer) -> str:
    """The answer as a cell of the table: without command and place, so that equal ones are equal."""
    if answer.status == 0 and answer.row.status == 0:
        return ACCEPTED
    lines = [re.sub(r"^renalplan_\w+: |^failed: \w+: ", "", li) for li in answer.said.splitlines()]
    text = " ".join(line.strip() for line in lines if not line.startswith("fold "))
    if answer.row.file is not None:
        text = re.sub(rf"(?:\./)?{re.escape(str(answer.row.file))}", "FILE", text)
    text = re.sub(r" \(\d+ more problems: .*\)$", "", text)
    text = re.sub(r"\d+\.\d{3,}|(?<=\.tmp-)\d+", "#", text)
    text = re.sub(r"/[^\s()]*/(?=work/)", "", text)  # where the test happens to run
    return escape(text, quote=False).replace("|", "&#124;").replace("*", "&#42;")


def page(answers: Iterable[Answer]) -> str:
    """The whole page."""
    found = list(answers)
    kinds = list(dict.fromkeys(answer.row.kind for answer in found))
    faults = {(answer.row.kind, answer.row.fault) for answer in found}
    parts = [HEAD.format(rows=len(found), faults=len(faults))]
    for kind in kinds:
        parts.append(f"## {kind}\n\n| what is wrong | command and status | answer |\n|---|---|---|")
        parts += _lines([answer for answer in found if answer.row.kind == kind])
        parts.append("")
    return "\n".join(parts)


def _lines(answers: list[Answer]) -> list[str]:
    """A line for each fault and different answer, with all commands that gave it."""
    commands: dict[tuple[str, str], list[str]] = {}
    for answer in answers:
        name = f"{answer.row.command} {answer.status}"
        commands.setdefault((answer.row.fault, cell(answer)), []).append(name)
    lines, last = [], ""
    for (fault, text), names in commands.items():
        shown = "" if fault == last else escape(fault, quote=False).replace("|", "&#124;")
        lines.append(
            f"| {shown.replace('*', '&#42;')} | {', '.join(dict.fromkeys(names))} | {text} |"
        )
        last = fault
    return lines
