"""Peak memory and seconds a training step of each network, beside the plain U-Net at the same patch.

Every network runs in a process of its own: its peak is the process' peak resident memory minus what
the process held before the network was built. On a GPU it is the
allocator's own peak. The same steps: forward, loss, backward, Adam. Beside it stands what
`renalplan.networks.live_memory` expects (tensors alone: no context, no workspace of a convolution).

On a GPU: python benchmarks/networks.py --device cuda --precision bf16 --patch 128 128 128 --batch 2
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

GB = 1024**3
# name -> import path and arguments besides channels and heads
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain U-Net (32 to 320)": ("unet", {"kind": "plain"}),
    "residual U-Net (32 to 320)": ("unet", {"kind": "residual"}),
    "DenseBiasNet (m = 4)": ("dense", {}),
    "DenseBiasNet, checkpointing": ("dense", {"checkpointing": True}),
    "DPA-DenseBiasNet": ("dense", {"priors": [16, 32, 64, 128]}),
    "denoising autoencoder": ("autoencoder", {}),
    "SC-UNet (2 edges)": ("scunet", {}),
    "FDFE (CPNet)": ("fdfe", {}),
    "LongSkipFCN (32, 64, 128)": ("fcn", {}),
}


def main() -> None:
    """Parse, measure one network a process, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--patch", type=int, nargs=3, default=[64, 160, 160], metavar=("Z", "Y", "X")
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as there are cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given)))
        return
    print(
        f"patch {' x '.join(map(str, given.patch))}, batch {given.batch}, {given.device}, {given.precision}\n"
    )
    print(
        "| network | parameters | peak memory | expected | ratio | s a step | ratio |\n"
        "|---|---|---|---|---|---|---|"
    )
    first: dict[str, float] = {}
    for name in NETWORKS:
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {name} | failed: {done.stderr.strip().splitlines()[-1]} |")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found
        print(
            f"| {name} | {found['parameters'] / 1e6:.2f} M | {found['gb']:.2f} GB | "
            f"{found['expected_gb']:.2f} GB | {found['gb'] / first['gb']:.2f} | {found['seconds']:.2f} | "
            f"{found['seconds'] / first['seconds']:.2f} |",
            flush=True,
        )


def measure(name: str, given: argparse.Namespace) -> dict[str, float]:
    """One network's figures, in this process."""
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    kind, arguments = NETWORKS[name]
    expected = expect(kind, arguments, given)
    before = peak_bytes(device) if given.device == "cpu" else 0
    network = build(kind, arguments, tuple(given.patch)).to(device)
    network = network.to(memory_format=torch.channels_last_3d).train()
    trained = [p for p in network.parameters() if p.requires_grad]
    image = torch.randn(given.batch, 1, *given.patch, device=device)
    seconds = []
    optimizer = torch.optim.Adam(trained, lr=1e-4)
    for _ in range(given.iterations + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(given.device, torch.bfloat16, enabled=given.precision == "bf16"):
            outputs = network(image)
        total_loss(kind, outputs, image).backward()
        optimizer.step()
        if given.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return {
        "parameters": sum(p.numel() for p in trained),
        "gb": (peak_bytes(device) - before) / GB,
        "expected_gb": expected / GB,
        "seconds": statistics.median(seconds[1:]),
    }


def expect(kind: str, arguments: dict[str, Any], given: argparse.Namespace) -> int:
    """Bytes that a step is expected to hold in tensors."""
    import torch

    from renalplan.networks.live_memory import step_bytes

    return step_bytes(
        lambda: build(kind, arguments, tuple(given.patch)),
        {"image": torch.zeros(given.batch, 1, *given.patch, device="meta")},
        lambda network, batch: total_loss(kind, network(batch["image"]), batch["image"]),
        lambda network: torch.optim.Adam([p for p in network.parameters() if p.requires_grad]),
        half=given.precision == "bf16",
    )


def build(kind: str, arguments: dict[str, Any], patch: tuple[int, ...]) -> Any:
    """The untrained network: one channel, background / kidney / tumor."""
    from renalplan.networks import FDFE, Autoencoder, DenseBiasNet, LongSkipFCN, SCUNet, UNet
    from renalplan.planners.memory import Architecture
    from renalplan.planners.topology import plan_topology

    if kind == "dense":
        return DenseBiasNet(1, 3, **arguments)
    if kind == "autoencoder":
        return Autoencoder(1)
    if kind == "scunet":
        return SCUNet(1, 3)
    if kind == "fdfe":
        return FDFE(1)
    if kind == "fcn":
        return LongSkipFCN(1, 3, (32, 64, 128), [(2, 2, 2), (2, 2, 2)])
    topology = plan_topology((1.0, 1.0, 1.0), patch)
    if topology.patch != patch:
        raise SystemExit(f"the U-Net needs the patch {topology.patch}")
    form = Architecture(
        kind=arguments["kind"], base_features=32, max_features=320, channels=1, heads=3
    )
    return UNet(
        1,
        3,
        form.features(topology.stages),
        topology.strides,
        topology.kernels,
        kind=form.kind,
        blocks=form.blocks(topology.stages),
        convs_per_stage=form.convs_per_stage,
    )


def total_loss(kind: str, outputs: Any, image: Any) -> Any:
    """Cross-entropy of every output with a fixed target; squared error for the autoencoder."""
    import torch
    from torch.nn import functional as F

    if kind == "autoencoder":
        return F.mse_loss(outputs.float(), image)
    several = outputs if isinstance(outputs, list) else [outputs]
    total = torch.zeros((), device=image.device)
    for logits in several:
        target = torch.zeros((logits.shape[0], *logits.shape[2:]), dtype=torch.long)
        total = total + F.cross_entropy(logits.float(), target.to(image.device))
    return total


def peak_bytes(device: Any) -> int:
    """Most memory held so far."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
