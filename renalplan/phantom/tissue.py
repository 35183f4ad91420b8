"""What each tissue measures in Hounsfield units, by contrast phase and from patient to patient.

Between patients every enhancement (phase minus unenhanced) is multiplied by one lognormal factor
that all tissues and phases of a patient share (spread 0.20: contrast dose, weight and heart), and
by a small one of the tissue's own (0.06). Unenhanced values vary normally.

Sources:
    [EJR2007] European Journal of Radiology 2007; 63:420: cortex, medulla, renal vessels over time.
    [Brieflands14860] brieflands.com, article 14860: aorta, renal artery, fat, muscle at 120 kVp.
    [Urologia] Urologia 5000256: clear-cell carcinoma and oncocytoma in four phases.
    [PMC4774615] lipid-poor angiomyolipoma, unenhanced and washout.
All other numbers are assumptions: typical values, chosen so that the order of the tissues is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PHASES = ("noncontrast", "arterial", "corticomedullary", "nephrographic", "excretory")

# tissue -> (HU in the order of PHASES, sd of the unenhanced value)
TABLE: dict[str, tuple[tuple[float, float, float, float, float], float]] = {
    "air": ((-1000, -1000, -1000, -1000, -1000), 0),
    "lung": ((-850, -830, -830, -830, -840), 25),
    "skin": ((20, 35, 40, 45, 40), 8),
    "fat": ((-100, -95, -95, -95, -95), 6),  # [Brieflands14860]
    "muscle": ((50, 56, 58, 62, 60), 4),  # [Brieflands14860]
    "trabecular_bone": ((150, 170, 170, 170, 165), 35),
    "cortical_bone": ((600, 620, 620, 620, 615), 80),
    "disc": ((80, 85, 88, 90, 90), 8),
    "spinal_canal": ((25, 28, 28, 30, 30), 4),
    "liver": ((58, 75, 85, 110, 85), 7),
    "spleen": ((48, 130, 140, 120, 80), 5),
    "gallbladder": ((8, 9, 10, 10, 15), 4),
    "heart": ((42, 200, 200, 130, 95), 4),
    "bowel_wall": ((40, 80, 90, 90, 80), 5),
    "bowel_content": ((25, 25, 27, 28, 30), 10),
    "gas": ((-900, -900, -900, -900, -900), 15),
    "cortex": ((30, 225, 240, 185, 125), 4),  # [EJR2007]
    "medulla": ((30, 90, 110, 175, 130), 4),  # [EJR2007]
    "artery": ((40, 320, 280, 155, 105), 5),  # [Brieflands14860]
    "vein": ((40, 200, 210, 155, 105), 5),  # [EJR2007]
    "vena_cava": ((40, 120, 150, 150, 105), 5),
    "collecting_system": ((5, 8, 10, 30, 900), 4),
    "sinus_fat": ((-95, -90, -88, -88, -88), 6),
    "cyst": ((5, 6, 7, 8, 8), 4),
    "necrosis": ((15, 18, 20, 25, 25), 6),
    "clear_cell": ((34, 150, 173, 149, 98), 7),  # [Urologia]
    "oncocytoma": ((31, 135, 151, 137, 79), 8),  # [Urologia]
    "papillary": ((33, 55, 60, 62, 50), 7),
    "chromophobe": ((34, 80, 85, 85, 65), 7),
    "angiomyolipoma_classic": ((-60, -20, -10, -15, -25), 20),
    "angiomyolipoma_lipid_poor": ((38, 110, 120, 100, 75), 7),  # [PMC4774615]
}

SPREAD_PATIENT = 0.20  # sd of log enhancement between patients
SPREAD_TISSUE = 0.06  # sd of log enhancement of one tissue within a patient
TISSUES_UNSPREAD = ("air", "gas", "lung", "fat", "sinus_fat")


@dataclass(frozen=True, kw_only=True)
class Histology:
    """How a tumor type looks.

    Attributes:
        share: Probability among tumors; KiTS19's mix, its rare types left out.
        tissue: Row of the HU table.
        texture_hu: Range of the standard deviation inside the tumor.
        necrosis: Largest number of necrotic blobs.
        capsule: Whether a thin darker rim surrounds it.
    """

    share: float
    tissue: str
    texture_hu: tuple[float, float]
    necrosis: int = 0
    capsule: bool = False


HISTOLOGIES: dict[str, Histology] = {
    "clear_cell": Histology(
        share=0.71, tissue="clear_cell", texture_hu=(25, 40), necrosis=3, capsule=True
    ),
    "papillary": Histology(share=0.11, tissue="papillary", texture_hu=(8, 15)),
    "chromophobe": Histology(share=0.095, tissue="chromophobe", texture_hu=(8, 15)),
    "oncocytoma": Histology(share=0.05, tissue="oncocytoma", texture_hu=(10, 18)),
    "angiomyolipoma_classic": Histology(
        share=0.02, tissue="angiomyolipoma_classic", texture_hu=(25, 40)
    ),
    "angiomyolipoma_lipid_poor": Histology(
        share=0.015, tissue="angiomyolipoma_lipid_poor", texture_hu=(8, 15)
    ),
}

Values = dict[str, dict[str, float]]  # tissue -> phase -> HU


def table_hu(tissue: str, phase: str) -> float:
    """The table's mean HU of a tissue in a phase."""
    return TABLE[tissue][0][PHASES.index(phase)]


def draw_values(rng: np.random.Generator) -> Values:
    """One patient's HU of every tissue in every phase."""
    # mean of exp(N(-s^2/2, s)) is 1, so that the patients' mean is the table's
    patient = float(
        np.clip(np.exp(rng.normal(-(SPREAD_PATIENT**2) / 2, SPREAD_PATIENT)), 0.55, 1.8)
    )
    values: Values = {}
    for tissue, (means, spread) in TABLE.items():
        own = float(np.exp(rng.normal(-(SPREAD_TISSUE**2) / 2, SPREAD_TISSUE)))
        base = means[0] + spread * float(np.clip(rng.standard_normal(), -2.5, 2.5))
        factor = 1.0 if tissue in TISSUES_UNSPREAD else patient * own
        values[tissue] = {
            phase: base + (mean - means[0]) * factor
            for phase, mean in zip(PHASES, means, strict=True)
        }
    # urine depends on concentration far more than blood does on the contrast dose
    values["collecting_system"]["excretory"] = float(np.clip(rng.normal(900, 350), 400, 2500))
    return values


def draw_histology(rng: np.random.Generator) -> str:
    """A tumor type by its share."""
    shares = np.array([kind.share for kind in HISTOLOGIES.values()])
    return str(rng.choice(list(HISTOLOGIES), p=shares / shares.sum()))
