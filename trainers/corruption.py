"""A cascade's previous labels as image channels, made as wrong as the stage before may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from renalplan.labels import LabelScheme

if TYPE_CHECKING:
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms


@dataclass(frozen=True)
class PreviousAsChannels:
    """Moves the second label channel (the stage before's) into the image, one-hot.

    Attributes:
        scheme: Names the channels: one a structure.
        corrupt: Whether structures are grown, shrunk and partly removed at random, as nnU-Net does,
            so that the network does not trust them.
    """

    scheme: LabelScheme
    corrupt: bool

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Image (C + structures, Z, Y, X) and labels (1, Z, Y, X).

        Args:
            image: (C, Z, Y, X) float32.
            labels: (2, Z, Y, X) integers.
        """
        previous = labels[1]
        masks = [_any_of(previous, values) for values in self.scheme.foreground.values()]
        return torch.cat([image, torch.stack(masks).to(image.dtype)]), labels[:1]

    def corrupted(self, image: Tensor) -> Tensor:
        """The image with its last channels corrupted; draws from the global generators, on the CPU."""
        # made anew: the library's transforms shuffle their channels for good
        steps = _corruption(list(range(-len(self.scheme.foreground), 0)))
        result: Tensor = steps(image=image)["image"]
        return result


def _any_of(labels: Tensor, values: tuple[int, ...]) -> Tensor:
    found = labels == values[0]
    for value in values[1:]:
        found = found | (labels == value)
    return found


def _corruption(channels: list[int]) -> ComposeTransforms:
    # a second to import, which only a cascade's second network needs
    from batchgeneratorsv2.transforms.nnunet.random_binary_operator import (
        ApplyRandomBinaryOperatorTransform as GrowOrShrink,
    )
    from batchgeneratorsv2.transforms.nnunet.remove_connected_components import (
        RemoveRandomConnectedComponentFromOneHotEncodingTransform as RemovePiece,
    )
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    grown = GrowOrShrink(channel_idx=channels, strel_size=(1, 8), p_per_label=0.5)
    removed = RemovePiece(
        channel_idx=channels,
        fill_with_other_class_p=0,
        dont_do_if_covers_more_than_x_percent=0.15,
        p_per_label=0.5,
    )
    return ComposeTransforms(
        [
            RandomTransform(grown, apply_probability=0.4),
            RandomTransform(removed, apply_probability=0.2),
        ]
    )
