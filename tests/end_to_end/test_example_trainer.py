"""The trainer that the documentation shows, as it stands there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from renalplan.errors import UsageError
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder
from renalplan.planners.options import PlanOptions
from renalplan.planning import plan_and_preprocess
from renalplan.trainers.registry import find_trainer
from renalplan.training import train
from renalplan.workspace import Workspace

DOCS = Path(__file__).parents[2] / "docs"
NAME = "my_trainer:FocalTverskyUNet"


def test_the_example_has_at_most_forty_lines_and_the_page_names_it() -> None:
    assert len((DOCS / "examples" / "my_trainer.py").read_text().splitlines()) <= 40
    page = (DOCS / "write_a_trainer.md").read_text()
    assert "examples/my_trainer.py" in page
    assert f"renalplan_train 101 0 {NAME}" in page


def test_every_hook_the_page_names_exists(plugins: None) -> None:
    kind = find_trainer(NAME)
    for line in (DOCS / "write_a_trainer.md").read_text().splitlines():
        if not line.startswith("| ") or line.startswith("| you want"):
            continue
        for name in (part for part in line.split("|")[2].split("`") if part[:1].isalpha()):
            owner = kind
            if "." in name:
                owner, name = kind.Stage, name.removeprefix("Stage.")  # type: ignore[attr-defined]
            if name != "SupervisedSettings" and " " not in name.strip(", "):
                assert hasattr(owner, name), name


def test_the_example_trains_with_its_own_settings(
    analytic_dataset: Callable[..., Workspace], plugins: None
) -> None:
    workspace = analytic_dataset("plain", {"left": 1, "right": 2})
    options = PlanOptions(base_features=4, max_features=8, gpu_memory_gb=0.004, cascade="none")
    plan_and_preprocess("1", options=options, workspace=workspace, workers=0, progress=False)
    short = ["epochs=1", "iterations=2", "validation_iterations=1", "alpha=0.8"]
    trained = train(
        "1", 0, NAME, settings=short, workspace=workspace, workers=0, progress=False, device="cpu"
    )
    assert set(trained.folds["0"]) == {"left", "right"}
    record = ModelFolder.open(trained.model).record
    assert record.trainer == NAME
    assert record.settings["alpha"] == 0.8
    with pytest.raises(UsageError, match="did you mean alpha"):
        train("1", 0, NAME, settings=["alhpa=1"], workspace=workspace)


def test_the_examples_loss_is_zero_for_a_perfect_answer_and_never_nan(plugins: None) -> None:
    import my_trainer  # type: ignore[import-not-found]

    scheme = LabelScheme(names=("background", "kidney"), values=((0,), (1,)), ignore=2)
    loss = my_trainer.FocalTversky(scheme, 0.7, 0.75)
    labels = torch.tensor([0, 1, 1, 0]).reshape(1, 1, 1, 1, 4)
    right = torch.stack([20.0 - 40 * labels[:, 0], 40.0 * labels[:, 0] - 20], 1)
    assert float(loss(right, labels)) < 1e-3
    # both heads: hit 0, missed 2, extra 2: index 1 / (0.7 * 2 + 0.3 * 2 + 1) = 1 / 3
    assert float(loss(-right, labels)) == pytest.approx((2 / 3) ** 0.75, rel=1e-4)
    logits = torch.zeros(1, 2, 1, 1, 4, requires_grad=True)
    loss(logits, torch.full_like(labels, 2)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
