"""Every error we raise on purpose: one sentence that says which file, what is wrong, what to do."""

from __future__ import annotations


class RenalplanError(Exception):
    """Something failed that is not a defect of ours; the command prints its sentence and exits.

    Attributes:
        exit_status: What a command returns to the shell: 2 for the user's mistakes, 1 for the rest.
    """

    exit_status = 1


class UsageError(RenalplanError, ValueError):
    """The command line or an argument asks for something that does not exist or does not fit."""

    exit_status = 2


class DatasetError(RenalplanError, ValueError):
    """A dataset folder, its dataset.json or one of its images is not what it has to be."""

    exit_status = 2


class NotLabelsError(DatasetError):
    """What should be a label map has values that none has: it may be a scan."""


class PlanError(RenalplanError, ValueError):
    """A plan cannot be made from this dataset, or a plan file is not valid."""

    exit_status = 2


class ModelError(RenalplanError, ValueError):
    """A model folder is incomplete, damaged, or does not fit what is asked of it."""

    exit_status = 2


class TrainingError(RenalplanError, RuntimeError):
    """Training cannot go on."""


class LostError(TrainingError):
    """Processes that this one trained together with are gone; the cause is theirs to tell."""


class PredictionError(RenalplanError, RuntimeError):
    """A case could not be predicted."""


class WorkerError(RenalplanError, RuntimeError):
    """A worker process failed or died; the sentence names the case and the cause."""
