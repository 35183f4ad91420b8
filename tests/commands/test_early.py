"""What can be refused without PyTorch is refused before it is imported, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LINES = {
    "train 77 0": "no dataset '77'",
    "train 1 7": "FOLD 7 is out of range",
    "train 1 0 UNett": "no trainer 'UNett'",
    "train 1 0 --workers 0 UNett": "no trainer 'UNett'",
    "train 1 UNet 0": "FOLD 'UNet' and TRAINER '0' have changed places; FOLD comes first: 0 UNet.",
    "train 1 0 --set epochs=1 UNet": "--set UNet: needs the form name=value; TASK, FOLD and TRAINER stand before",
    "train 1 0 --plan nosuch": "has no plan 'nosuch'",
    "train 1 0 --name a/b": "a/b",
    "train 1 0 --budget 3": "--budget 3 has no unit",
    "train 1 0 --budget 3h --deterministic": "--deterministic: under a --budget",
    "train 1 0 --devices 0": "--devices 0: at least 1",
    "train 1 0 --accumulate 0": "--accumulate 0: at least 1",
    "predict -i nosuch -o out": "input nosuch does not exist",
    "predict -i work -o out -d 77": "no dataset '77'",
    "evaluate nosuch nosuch": "nosuch is not a folder",
    "check 77": "no dataset '77'",
    "plan_and_preprocess 77": "no dataset '77'",
}
PROGRAM = """
import json, sys
sys.modules["torch"] = None  # whoever imports it fails
from renalplan import cli
for line in json.loads(sys.argv[1]):
    name, *arguments = line.split()
    print(f"{line}: {getattr(cli, name)(arguments)}", flush=True)
    print(flush=True, file=sys.stderr)
"""


def test_refusals_do_not_wait_for_pytorch(here: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(list(LINES))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == [f"{line}: 2" for line in LINES]
    for said, words in zip(ran.stderr.strip().split("\n\n"), LINES.values(), strict=True):
        assert words in said
        assert len(said.splitlines()) == 1
