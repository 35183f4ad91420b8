"""Synthetic fingerprints, as fixtures that build them: only what planners read, no images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from renalplan.plan import Intensities
from renalplan.planners.fingerprint import CaseFingerprint, Component, Fingerprint, Structure

Triple = tuple[float, float, float]
HU = Intensities(
    mean=100,
    std=75,
    minimum=-200,
    maximum=600,
    median=105,
    percentile_00_5=-60,
    percentile_99_5=300,
)


def _kidney(centre_mm: Triple, size_mm: Triple, volume_ml: float) -> Component:
    """A connected piece around `centre_mm`, both along (z, y, x)."""
    low = [c - s / 2 for c, s in zip(centre_mm, size_mm, strict=True)]
    high = [c + s / 2 for c, s in zip(centre_mm, size_mm, strict=True)]
    return Component(volume_ml=volume_ml, box_mm=(*low, *high))  # type: ignore[arg-type]


def _case(
    name: str,
    spacing: Triple,
    shape: tuple[int, int, int],
    components: Sequence[Component] | None = None,
    thickness_mm: dict[str, float | None] | None = None,
) -> CaseFingerprint:
    """One case; its foreground fills the whole scan unless `components` says otherwise."""
    extent = [n * s for n, s in zip(shape, spacing, strict=True)]
    whole = Component(volume_ml=1000.0, box_mm=(0, 0, 0, *extent))  # type: ignore[arg-type]
    pieces = (whole,) if components is None else tuple(components)
    return CaseFingerprint(
        id=name,
        spacing=spacing,
        shape=shape,
        shape_after_crop=shape,
        shape_nonzero=shape,
        foreground_share=0.5,
        structures={
            label: Structure(volume_ml=100.0 if value else 0.0, thickness_mm=value)
            for label, value in (thickness_mm or {"kidney": 40.0}).items()
        },
        components=pieces,
        foreground_box_mm=pieces[0].box_mm if pieces else None,
    )


def _fingerprint(
    cases: Sequence[CaseFingerprint],
    *,
    heads: int = 2,
    channels: Sequence[str] = ("CT",),
) -> Fingerprint:
    return Fingerprint(
        dataset="Dataset001_Test",
        cases=tuple(cases),
        channel_names=tuple(channels),
        label_names=tuple(cases[0].structures),
        heads=heads,
        intensities=(HU,) * len(channels),
    )


def _scans(*groups: tuple[int, Triple, tuple[int, int, int]], heads: int = 2) -> Fingerprint:
    """Groups of equal cases: (count, spacing, shape)."""
    cases = [
        _case(f"case_{group}_{number}", spacing, shape)
        for group, (count, spacing, shape) in enumerate(groups)
        for number in range(count)
    ]
    return _fingerprint(cases, heads=heads)


def _abdomens(count: int = 20, thickness_mm: dict[str, float | None] | None = None) -> Fingerprint:
    """KiTS-like: 0.78 mm in-plane, 1 mm slices, 400 mm of scan, two kidneys of 180 ml."""
    pieces = (
        _kidney((200, 200, 130), (110, 60, 60), 180),
        _kidney((210, 200, 270), (110, 60, 60), 180),
        _kidney((20, 20, 20), (5, 5, 5), 0.1),
    )
    thick = thickness_mm or {"kidney": 40.0, "tumour": 20.0}
    cases = [
        _case(f"case_{n:02d}", (1.0, 0.78125, 0.78125), (400, 512, 512), pieces, thick)
        for n in range(count)
    ]
    return _fingerprint(cases, heads=3)


@pytest.fixture
def kidney() -> Callable[..., Component]:
    return _kidney


@pytest.fixture
def case() -> Callable[..., CaseFingerprint]:
    return _case


@pytest.fixture
def fingerprint() -> Callable[..., Fingerprint]:
    return _fingerprint


@pytest.fixture
def scans() -> Callable[..., Fingerprint]:
    return _scans


@pytest.fixture
def abdomens() -> Callable[..., Fingerprint]:
    return _abdomens
