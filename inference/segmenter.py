"""The contract between a model and the engine: one scan in, a field of probabilities out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from renalplan.geometry import Shape
from renalplan.images import Volume
from renalplan.inference.fields import ProbabilityField
from renalplan.inference.networks import FoldNetworks
from renalplan.inference.options import InferenceOptions
from renalplan.inference.sliding_window import Mirroring, Progress, WindowPredictor
from renalplan.labels import LabelScheme
from renalplan.model_folder import ModelFolder


class Segmenter(ABC):
    """Turns scans into probability fields with the networks of one model folder.

    Constructors only store; networks are loaded on first use. JSON arguments of
    `trainer.json` arrive as keyword arguments.

    Attributes:
        model: Where networks come from.
        folds: Whose networks are averaged.
        options: How to run them.
        networks: The folds' networks by phase.
        forecasts: Whether it keeps to `max_ram`.
    """

    forecasts = False

    def __init__(self, model: ModelFolder, folds: list[str], options: InferenceOptions) -> None:
        self.model = model
        self.folds = folds
        self.options = options
        self.networks = FoldNetworks(model, folds, options)

    @property
    def phases(self) -> tuple[str, ...]:
        """Phases whose networks it predicts with: what a model must have with it."""
        return tuple(self.model.record.networks)

    def load(self) -> None:
        """Load what it needs now, so that a damaged model is not the first scan's failure.

        Raises:
            ModelError: a network is missing, damaged or not trusted.
        """
        self.networks.load(self.phases)

    @abstractmethod
    def segment(self, volume: Volume) -> ProbabilityField:
        """Probabilities on the volume's canonical grid, with what its rules decided, if it has any."""

    def windows(
        self,
        phase: str,
        channels: int,
        patch: Shape,
        heads: int,
        *,
        scheme: LabelScheme | None = None,
        batch: int | None = None,
        uncertainty: bool = False,
    ) -> WindowPredictor:
        """Sliding windows of the folds' networks of one phase; their logits are averaged.

        Args:
            phase: Which networks.
            channels: Of the image.
            patch: Window size; an axis of 1 is never mirrored.
            heads: Number of outputs.
            scheme: What they mean, where left and right are told apart.
            batch: Patches computed at a time; the options' if None.
            uncertainty: Whether to say how far the folds disagree too; needs the scheme.
        """
        axes = tuple(axis for axis in range(3) if patch[axis] > 1) if self.options.tta else ()
        mirroring = Mirroring(
            axes=axes,
            swap=scheme.mirrored_heads() if scheme and scheme.mirror_pairs else None,
            left_right_axis=self.model.plan.left_right_axis,
        )
        return WindowPredictor(
            self.networks.engines(phase, channels, patch),
            patch,
            heads,
            channels=channels,
            step=self.options.step,
            mirroring=mirroring,
            batch=batch or self.options.batch,
            scratch=self.options.scratch(),
            exclusive=not scheme.has_regions if uncertainty and scheme else None,
        )

    def progress(self, what: str) -> Progress | None:
        """Whom to tell how many windows of something are done."""
        report = self.options.progress
        if report is None:
            return None
        return lambda done, total: report(what, done, total)
