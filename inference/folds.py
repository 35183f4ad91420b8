"""The folds' networks over one volume, averaged as logits, so that all folds look at the same."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from renalplan.geometry import Shape
from renalplan.inference.segmenter import InferenceOptions
from renalplan.inference.sliding_window import Progress, WindowPredictor


def mean_logits(
    networks: Sequence[nn.Module],
    image: Tensor,
    patch: Shape,
    heads: int,
    *,
    options: InferenceOptions,
    names: Sequence[str],
    swap: tuple[int, ...] | None = None,
    left_right_axis: int = 2,
    batch: int = 1,
) -> Tensor:
    """Sliding windows of every fold's network: the mean of their logits, (heads, z, y, x).

    Args:
        networks: One a fold, at least one.
        image: (C, z, y, x) float32.
        patch: Window size; an axis of 1 is never mirrored.
        heads: Number of outputs.
        options: Device, step, mirroring and whom to tell how far it is.
        names: What each network's progress is called.
        swap: See `WindowPredictor`.
        left_right_axis: See `WindowPredictor`.
        batch: Windows computed at a time.
    """
    mirrored = mirror_axes(patch, options)
    total: Tensor | None = None
    for network, name in zip(networks, names, strict=True):
        predict = WindowPredictor(
            network,
            patch,
            heads,
            step=options.step,
            mirror_axes=mirrored,
            swap=swap,
            left_right_axis=left_right_axis,
            device=options.torch_device(),
            batch=batch,
        )
        logits = predict(image, _progress(options, name))
        total = logits if total is None else total.add_(logits)
    assert total is not None, "there is at least one fold"
    return total.div_(len(networks))


def mirror_axes(patch: Shape, options: InferenceOptions) -> tuple[int, ...]:
    """Which axes of a window are mirrored: none that is one voxel long."""
    return tuple(axis for axis in range(3) if patch[axis] > 1) if options.tta else ()


def _progress(options: InferenceOptions, name: str) -> Progress | None:
    report = options.progress
    if report is None:
        return None
    return lambda done, total: report(name, done, total)
