"""Paints kidneys, renal vessels and tumors over the trunk and keeps track of what belongs to what.

Order per patient: perirenal fat, parenchyma, pyramids, sinus fat, collecting system, veins,
arteries, tumors. Anatomical regions (kidney, cortex, medulla) are not reduced by the vessels that
run in them, only by the collecting system and by tumors.
"""

from __future__ import annotations

import numpy as np

from renalplan.phantom.anatomy import Patient
from renalplan.phantom.canvas import Canvas, Window
from renalplan.phantom.kidneys import Kidney
from renalplan.phantom.shapes import Tubes, coverage, open_axes
from renalplan.phantom.tissue import HISTOLOGIES
from renalplan.phantom.tumors import Tumor

STRUCTURES = (
    "kidney_left",
    "kidney_right",
    "cortex",
    "medulla",
    "collecting_system",
    "sinus_fat",
    "artery",
    "vein",
    "tumor",
)
REGIONS = ("kidney_left", "kidney_right", "cortex", "medulla")
PERIRENAL_MM = 7.0  # fat that keeps liver, spleen and muscle off the kidney
PARENCHYMA_TEXTURE_HU = 8.0
SINUS_TEXTURE_HU = 12.0
THINNEST_ARTERY_MM = 1.5  # diameter below which an artery is not labelled


def paint_kidneys(canvas: Canvas, patient: Patient) -> None:
    """Paint everything renal and track it on the canvas."""
    for kidney in patient.kidneys:
        _paint_kidney(canvas, patient, kidney)
    for kidney in patient.kidneys:
        _paint_collecting(canvas, kidney)
    for trees, tissue in ((patient.veins, "vein"), (patient.arteries, "artery")):
        for tree in trees:
            if (found := canvas.tubes(tree)) is None:
                continue
            canvas.paint(*found, tissue)
            if tissue == "vein":
                canvas.track("vein", *found)
            elif (thick := canvas.tubes(_labelled(tree))) is not None:
                canvas.track("artery", *thick)
    # the roots lie inside the great vessels, whose lumen is not theirs
    if (found := canvas.tubes(patient.abdomen.vena_cava)) is not None:
        canvas.hide(("vein",), *found)
    if (found := canvas.tubes(patient.abdomen.aorta)) is not None:
        canvas.paint(*found, "artery")
        canvas.hide(("artery", "vein"), *found)
    for tumor in patient.tumors:
        _paint_tumor(canvas, tumor)


def _labelled(tree: Tubes) -> Tubes:
    return tree.only(2 * tree.start_radius >= THINNEST_ARTERY_MM)


def _window(canvas: Canvas, kidney: Kidney) -> Window | None:
    reach = kidney.half_box() + PERIRENAL_MM
    return canvas.window(kidney.centre - reach, kidney.centre + reach)


def _paint_kidney(canvas: Canvas, patient: Patient, kidney: Kidney) -> None:
    window = _window(canvas, kidney)
    if window is None:
        return
    width = canvas.width_mm
    vectors = canvas.vectors(window)
    bean = kidney.bean(*open_axes(*vectors))
    outer = kidney.capsule_distance(*bean)
    sinus_distance = kidney.sinus_distance(*bean)
    capsule = coverage(outer, width)
    canvas.paint(window, coverage(outer - np.float32(PERIRENAL_MM), 2.0 + width), "fat")
    texture = patient.parenchyma.on(*vectors)
    canvas.paint(window, capsule, "cortex", texture * np.float32(PARENCHYMA_TEXTURE_HU))
    pyramids = np.maximum(kidney.pyramid_distance(*bean), outer + np.float32(kidney.cortex_mm))
    pyramids = np.maximum(pyramids, -sinus_distance)
    inner = coverage(pyramids, width)
    canvas.paint(window, inner, "medulla", texture * np.float32(PARENCHYMA_TEXTURE_HU))
    sinus = coverage(sinus_distance, width) * coverage(outer - np.float32(4.0), 4.0 + width)
    canvas.paint(window, sinus, "sinus_fat", texture * np.float32(SINUS_TEXTURE_HU))
    kept = coverage(np.maximum(outer, -sinus_distance), width)
    canvas.track(f"kidney_{kidney.side}", window, kept)
    solid = kept
    if kidney.cyst is not None:
        centre, radius = kidney.cyst
        square = sum(np.square(axis - np.float32(c)) for axis, c in zip(bean, centre, strict=True))
        cyst = coverage(np.sqrt(square) - np.float32(radius), width) * (1 - sinus)
        canvas.paint(window, cyst, "cyst")
        canvas.track(f"kidney_{kidney.side}", window, cyst)
        solid = kept * (1 - cyst)
        inner = inner * (1 - cyst)
    medulla = np.minimum(inner, solid)
    canvas.track("medulla", window, medulla)
    canvas.track("cortex", window, solid - medulla)
    canvas.track("sinus_fat", window, sinus * capsule)


def _paint_collecting(canvas: Canvas, kidney: Kidney) -> None:
    found = canvas.tubes(kidney.collecting)
    if found is None:
        return
    window, share = found
    canvas.paint(window, share, "collecting_system")
    if "excretory" in canvas.hu:
        # contrast is heavier than urine and sinks to the back: 60 % to 140 % over 24 mm
        y = canvas.axes(window)[1] - np.float32(kidney.centre[1])
        level = np.float32(canvas.values["collecting_system"]["excretory"])
        canvas.hu["excretory"][window] += share * level * np.clip(y / 30, -0.4, 0.4)
    canvas.track("collecting_system", window, share)
    canvas.hide((*REGIONS, "sinus_fat"), window, share)


def _paint_tumor(canvas: Canvas, tumor: Tumor) -> None:
    reach = tumor.reach_mm + 3
    window = canvas.window(tumor.centre - reach, tumor.centre + reach)
    if window is None:
        return
    kind = HISTOLOGIES[tumor.histology]
    vectors = canvas.vectors(window)
    axes = open_axes(*vectors)
    distance = tumor.distance(*axes)
    share = coverage(distance, canvas.width_mm)
    texture = tumor.texture.on(*vectors) * np.float32(tumor.texture_hu)
    if kind.capsule:  # a 1 mm pseudo-capsule, 20 HU darker
        texture -= 20 * coverage(np.abs(distance + 0.7) - np.float32(0.6), canvas.width_mm)
    canvas.paint(window, share, kind.tissue, texture)
    for blob in tumor.necrosis:
        centre = tumor.centre + (blob[:3] * tumor.semi) @ tumor.frame
        square = sum(np.square(axis - np.float32(c)) for axis, c in zip(axes, centre, strict=True))
        # an uneven rim, since necrosis has no wall
        rim = np.sqrt(square) - np.float32(blob[3]) + texture * np.float32(1.5 / tumor.texture_hu)
        canvas.paint(window, coverage(rim, 2 + canvas.width_mm) * share, "necrosis")
    canvas.hide((*REGIONS, "artery", "vein", "sinus_fat", "collecting_system"), window, share)
    canvas.track("tumor", window, share)
