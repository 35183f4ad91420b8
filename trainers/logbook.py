"""What a phase writes down: log.csv, progress.png, TensorBoard events. One row an epoch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch.utils.tensorboard.writer import SummaryWriter

from renalplan.files import atomic_file


class Logbook:
    """Keeps the rows and writes all three after each epoch.

    Attributes:
        folder: The phase's folder.
        rows: One dict an epoch; a resumed phase brings those of its checkpoint.
    """

    def __init__(self, folder: Path, rows: list[dict[str, float]]) -> None:
        self.folder = folder
        self.rows = rows
        # events after the checkpoint belong to epochs that are trained again
        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=len(rows) or None)

    def add(self, row: dict[str, float]) -> None:
        """Write an epoch down."""
        self.rows.append(row)
        for name, value in row.items():
            if name != "epoch":
                self.events.add_scalar(name, value, len(self.rows) - 1)
        self.events.flush()
        table = pd.DataFrame(self.rows)
        with atomic_file(self.folder / "log.csv") as temporary:
            table.to_csv(temporary, index=False)
        with atomic_file(self.folder / "progress.png") as temporary:
            draw_progress(table, temporary)

    def close(self) -> None:
        """Close the event file."""
        self.events.close()


def draw_progress(table: pd.DataFrame, path: Path) -> None:
    """Loss and pseudo Dice over the epochs, learning rate and seconds below."""
    from matplotlib.figure import Figure  # a second to import, in every process that trains

    figure = Figure(figsize=(9, 7), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot(table["epoch"], table["loss"], color="tab:blue", label="training loss")
    upper.set_ylabel("loss")
    dice = [name for name in table.columns if name.startswith("dice")]
    if dice:
        right = upper.twinx()
        for name in dice:
            right.plot(table["epoch"], table[name], linestyle="--", label=name.replace("_", " "))
        right.set_ylim(0, 1)
        right.set_ylabel("pseudo Dice (held-out patches)")
        right.legend(loc="lower right", fontsize=8)
    upper.legend(loc="upper right", fontsize=8)
    upper.grid(alpha=0.3)
    lower.plot(table["epoch"], table["seconds"], color="tab:gray")
    lower.set_ylabel("seconds an epoch")
    lower.set_xlabel("epoch")
    figure.savefig(path, dpi=110)
