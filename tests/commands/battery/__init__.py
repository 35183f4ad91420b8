"""Bad input of every kind, as data: what is wrong, the commands that read it, what they must answer.

A module here lists the faults of one kind of file and the commands that read that kind; `rows` is all
of them crossed. A new fault is one line in its module's list, a new command one line in its readers;
`pytest tests/commands/test_battery.py --write-robustness` then writes docs/robustness.md anew.
"""

from __future__ import annotations
