"""Topology and width -> what training a U-Net costs: nnU-Net's element count, and bytes.

`elements` is the proxy nnU-Net plans with. `training_bytes` counts what mixed-precision training
holds at its peak. Both are sums over the stages: no network is built, so a planner may ask hundreds
of times.

Sources:
    [Isensee2021] nnU-Net, Nature Methods 18. [Isensee2024] nnU-Net Revisited, MICCAI.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from renalplan.planners.topology import Topology

GB = 1024**3
RESIDUAL_BLOCKS = (1, 3, 4, 6)  # of the first encoder stages; deeper ones have 6 [Isensee2024]

HALF = 2  # bytes of what autograd keeps in mixed precision
# float32 weight and momentum, and the half-precision copy the convolutions read: gradients come when
# the maps go, and count only where there is little else
PARAMETER_BYTES, GRADIENT_BYTES = 4 + 4 + HALF, 4
# while the loss is computed, a logit: itself and its gradient (half), float32 copy, softmax, log-softmax and gradient, target
LOGIT_BYTES = 2 * HALF + 4 * 4 + 4
# later, once logits are gone, gradients alive at once where the decoder meets full resolution, in feature maps of that stage:
# of the activation, of the convolution's output, and of the concatenation (two maps)
GRADIENT_MAPS = 4
LABEL_BYTES = 8  # of a voxel: labels and the loss' own copies of them


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A U-Net's width and kind, before its patch is known.

    Attributes:
        channels: Image channels.
        label_channels: One-hot channels of the stage before, in a cascade.
        heads: Outputs as nnU-Net counts them: background and each label or region.
    """

    kind: Literal["plain", "residual"]
    base_features: int
    max_features: int
    channels: int
    heads: int
    label_channels: int = 0

    @property
    def inputs(self) -> int:
        """Channels the network reads."""
        return self.channels + self.label_channels

    def features(self, stages: int) -> tuple[int, ...]:
        """Channels of each stage: doubled a stage, up to the cap."""
        return tuple(min(self.max_features, self.base_features * 2**s) for s in range(stages))

    def blocks(self, stages: int) -> tuple[int, ...] | None:
        """Residual blocks of each encoder stage; None for a plain network."""
        if self.kind == "plain":
            return None
        return tuple(RESIDUAL_BLOCKS[min(s, 3)] for s in range(stages))

    @property
    def convs_per_stage(self) -> int:
        """Convolutions of each decoder stage."""
        return 2 if self.kind == "plain" else 1


def elements(topology: Topology, network: Architecture) -> int:
    """Values that the convolutions put out for one patch: nnU-Net's measure of memory."""
    features = network.features(topology.stages)
    maps = [f * prod(size) for f, size in zip(features, topology.sizes, strict=True)]
    total = network.heads * topology.voxels
    total += (network.convs_per_stage + 1) * sum(maps[:-1])  # decoder, upsampling included
    if network.kind == "plain":
        return total + 2 * sum(maps)
    blocks = network.blocks(topology.stages)
    assert blocks is not None
    total += maps[0]  # stem
    for stage, (count, size) in enumerate(zip(blocks, maps, strict=True)):
        projected = stage > 0  # every later stage changes width or size
        total += (2 * count + projected) * size
    return total


def parameters(topology: Topology, network: Architecture) -> int:
    """Trainable numbers of the network with `heads` outputs."""
    features, kernels = network.features(topology.stages), topology.kernels
    blocks = network.blocks(topology.stages)
    total, inputs = 0, network.inputs
    if blocks is not None:
        total += _block(inputs, features[0], kernels[0])
        inputs = features[0]
    for stage, (width, kernel) in enumerate(zip(features, kernels, strict=True)):
        again = _block(width, width, kernel)
        if blocks is None:
            total += _block(inputs, width, kernel) + again
        else:
            total += _block(inputs, width, kernel) + (2 * blocks[stage] - 1) * again
            if inputs != width:
                total += inputs * width + 2 * width  # projection, no bias, and its norm
        inputs = width
    for stage in range(topology.stages - 1):
        here, below = features[stage], features[stage + 1]
        total += below * here * prod(topology.strides[stage + 1]) + here
        total += _block(2 * here, here, kernels[stage])
        total += (network.convs_per_stage - 1) * _block(here, here, kernels[stage])
        total += here * network.heads + network.heads
    return total


def _block(inputs: int, outputs: int, kernel: tuple[int, ...]) -> int:
    """Convolution with bias, and an affine norm."""
    return inputs * outputs * prod(kernel) + 3 * outputs


def saved_elements(topology: Topology, network: Architecture) -> int:
    """Values of one patch that autograd keeps until the backward pass, without the loss.

    A convolution keeps its input, a norm its input, an activation its output; each is counted once
    where several keep the same.
    """
    features = network.features(topology.stages)
    voxels = [prod(size) for size in topology.sizes]
    maps = [f * n for f, n in zip(features, voxels, strict=True)]
    total = network.inputs * voxels[0]
    # each concatenation (two maps), and each decoder convolution's output and activation
    total += (2 + 2 * network.convs_per_stage) * sum(maps[:-1])
    blocks = network.blocks(topology.stages)
    if blocks is None:
        return total + 4 * sum(maps)
    total += 2 * maps[0]  # stem
    inputs = features[0]
    for stage, (count, size) in enumerate(zip(blocks, maps, strict=True)):
        total += 4 * count * size
        if inputs != features[stage]:
            total += inputs * voxels[stage] + size  # pooled skip and its projection
        inputs = features[stage]
    return total


def training_bytes(topology: Topology, network: Architecture, batch_size: int) -> int:
    """Peak bytes that training with SGD in mixed precision holds in tensors.

    Within a few percent of the count of a real step (`renalplan.networks.live_memory.step_bytes`),
    which takes a second where this takes none. Full-precision training (a CPU) holds about twice the
    activations. The CUDA context and the convolutions' workspace come on top;
    `renalplan.planners.patch.usable_gb` leaves room for them.
    """
    top = network.features(1)[0] * topology.voxels
    # deep supervision adds the logits of the coarser decoder stages
    logits = network.heads * sum(prod(size) for size in topology.sizes[:-1])
    sample = HALF * saved_elements(topology, network) + LABEL_BYTES * topology.voxels
    sample += max(HALF * GRADIENT_MAPS * top, LOGIT_BYTES * logits)
    numbers = parameters(topology, network)
    step = PARAMETER_BYTES * numbers + batch_size * sample
    return max(step, (PARAMETER_BYTES + GRADIENT_BYTES) * numbers)
