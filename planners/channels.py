"""Channel name -> how its intensities are normalised. No name is guessed.

nnU-Net normalises any name but exactly "CT" by each image's own z-score, so a channel called
"CT_arterial" loses its Hounsfield units without a word. Here a name no rule knows is an error.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

from renalplan.errors import PlanError
from renalplan.plan import ChannelPlan, Normalisation
from renalplan.planners.fingerprint import Fingerprint

HOUNSFIELD = ("ct", "cta", "ctu", "ctp")
RELATIVE = (  # modalities whose values have no common unit
    *("mr", "mri", "t1", "t1w", "t1c", "t1ce", "t2", "t2w", "flair", "adc", "dwi", "dixon"),
    *("us", "pet", "spect"),
)
BY_NAME: dict[str, Normalisation] = {  # nnU-Net's own names
    "zscore": "zscore",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
    "nonorm": "none",
}
KNOWN = (
    *("CT", "CTA", "CTU", "CTP", "CT_arterial", "CT_venous", "CT_nephrographic", "CT_excretory"),
    *("CT_native", "MRI", "T1", "T2", "FLAIR", "US", "PET"),
    *("zscore", "rescale_to_0_1", "rgb_to_0_1", "noNorm"),
)


def normalisation(name: str) -> tuple[Normalisation, str]:
    """The rule for a channel of this name, and why.

    Raises:
        PlanError: no rule knows the name, or it names two modalities.
    """
    lower = name.strip().lower()
    if lower in BY_NAME:
        return BY_NAME[lower], f"channel {name!r} is a normalisation's own name."
    words = [word for word in re.split(r"[_\- ]+", lower) if word]
    ends = set(words[:1] + words[-1:])
    hounsfield, relative = ends & set(HOUNSFIELD), set(words) & set(RELATIVE)
    if hounsfield and not relative:
        return "ct", (
            f"channel {name!r} is CT: values are Hounsfield units, so they are clipped and scaled "
            "with the dataset's foreground statistics, the same for every case."
        )
    if ends & relative and not hounsfield:
        return "zscore", (
            f"channel {name!r} is no CT: its values have no common unit, so each image is scaled "
            "by its own mean and standard deviation."
        )
    raise PlanError(_unknown(name))


def _unknown(name: str) -> str:
    by_lower = {known.lower(): known for known in KNOWN}
    near = get_close_matches(name.strip().lower(), by_lower, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(by_lower[found]) for found in near)}?" if near else ""
    return (
        f"dataset.json: no normalisation is known for channel {name!r}.{hint} "
        f"Known are {', '.join(KNOWN)}; CT names may have a suffix or prefix set off by '_', "
        "'-' or a space."
    )


def plan_channels(
    fingerprint: Fingerprint, window: tuple[float, float] | None = None
) -> tuple[tuple[ChannelPlan, ...], str]:
    """Every channel's plan, and the reasons as one text.

    Args:
        fingerprint: The dataset, measured.
        window: HU (low, high) to scale CT channels from, instead of the foreground's statistics.

    Raises:
        PlanError: a channel's name says nothing about its values, or a window is asked for and
            none is CT.
    """
    plans, reasons = [], []
    for name, intensities in zip(fingerprint.channel_names, fingerprint.intensities, strict=True):
        rule, reason = normalisation(name)
        if rule == "ct" and window is not None:
            plans.append(
                ChannelPlan(
                    name=name, normalisation="window", intensities=intensities, window=window
                )
            )
            reasons.append(
                f"channel {name!r} is CT: {window[0]:g} to {window[1]:g} HU, as asked for."
            )
            continue
        plans.append(ChannelPlan(name=name, normalisation=rule, intensities=intensities))
        if rule == "ct":
            reason += (
                f" Range {intensities.percentile_00_5:.0f} to "
                f"{intensities.percentile_99_5:.0f} HU, mean {intensities.mean:.0f}, "
                f"standard deviation {intensities.std:.0f}."
            )
        reasons.append(reason)
    if window is not None and all(plan.window is None for plan in plans):
        raise PlanError("--window is for CT channels, and this dataset has none.")
    return tuple(plans), " ".join(reasons)
