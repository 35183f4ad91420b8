"use strict";
// The 3-D view and the slices. Everything it shows is in this page: nothing is loaded from elsewhere.
(async () => {
  const box = document.getElementById("viewer");
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const ground = [0.24, 0.27, 0.3, 1];
  const shown = scene.structures.map(() => true);
  const calm = { backColor: ground, dragAndDropEnabled: false, logLevel: "error", loadingText: "" };
  const rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

  function labelColours() {
    // index 0 is the background
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    scene.structures.forEach((structure, index) => {
      const [red, green, blue] = rgb(structure.colour);
      table.R.push(red);
      table.G.push(green);
      table.B.push(blue);
      table.A.push(shown[index] ? 255 : 0);
      table.I.push(index + 1);
      table.labels.push(structure.name);
    });
    return table;
  }

  async function withScan(canvas, options, opacity) {
    const view = new niivue.Niivue({ ...calm, ...options });
    await view.attachToCanvas(canvas, true);
    const [low, high] = scene.window;
    const scan = { base64: scene.image, name: "scan.nii.gz", cal_min: low, cal_max: high, opacity };
    view.addVolume(await niivue.NVImage.loadFromBase64(scan));
    return view;
  }

  async function makeBody() {
    const view = await withScan(
      document.getElementById("body"),
      { show3Dcrosshair: false, isOrientationTextVisible: false, crosshairWidth: 0 },
      0,
    );
    view.setSliceType(view.sliceTypeRender);
    // what one sees into comes last: it is blended with what is drawn before it
    const order = scene.structures.map((_, index) => index);
    order.sort((a, b) => scene.structures[b].opacity - scene.structures[a].opacity);
    const meshes = [];
    for (const index of order) {
      const structure = scene.structures[index];
      if (!structure.mesh) continue;
      const bytes = Uint8Array.from(atob(structure.mesh), (letter) => letter.charCodeAt(0));
      const colour = new Uint8Array([...rgb(structure.colour), 255]);
      const name = `structure${index}.mz3`;
      const mesh = await niivue.NVMesh.readMesh(bytes.buffer, name, view.gl, structure.opacity, colour);
      view.addMesh(mesh);
      meshes[index] = mesh;
    }
    view.setScale(1.2);
    view.onAzimuthElevationChange = letters;
    view.setRenderAzimuthElevation(...looks.front);
    letters(...looks.front);
    return { view, meshes };
  }

  async function makeSlices() {
    const view = await withScan(
      document.getElementById("slices"),
      { isRadiologicalConvention: true, sagittalNoseLeft: true, crosshairColor: [0.55, 0.85, 1, 0.5],
        crosshairWidth: 0.5, multiplanarShowRender: 0, multiplanarLayout: 3, fontColor: [0.9, 0.93, 0.95, 1] },
      1,
    );
    const labels = await niivue.NVImage.loadFromBase64({
      base64: scene.labels, name: "labels.nii.gz", opacity: 0.45,
    });
    labels.setColormapLabel(labelColours());
    view.addVolume(labels);
    view.setSliceType(view.sliceTypeMultiplanar);
    view.scene.crosshairPos = view.mm2frac(scene.focus);
    view.onLocationChange = (place) => {
      const [x, y, z] = place.mm;
      const index = Math.round(place.values[1]?.value ?? 0);
      const name = index > 0 ? `, ${scene.structures[index - 1].name}` : "";
      const value = Math.round(place.values[0]?.value ?? 0);
      const at = [-x, -y, z].map((mm) => mm.toFixed(1)).join(", ");
      document.getElementById("place").textContent = `${at} mm (LPS): ${value}${name}`;
    };
    view.drawScene();
    return { view, labels };
  }

  const looks = {
    front: [180, 0], back: [0, 0], right: [270, 0], left: [90, 0], head: [180, 90], feet: [180, -90],
  };

  // which of the patient's sides lie at the view's borders, as on the slices
  function letters(azimuth, elevation) {
    const [turned, raised] = [azimuth, elevation].map((angle) => (angle * Math.PI) / 180);
    const [sin, cos] = [Math.sin(turned), Math.cos(turned)];
    const right = [cos, -sin, 0]; // RAS
    const up = [sin * Math.sin(raised), cos * Math.sin(raised), Math.cos(raised)];
    const name = (axis, sign) => {
      const sizes = axis.map(Math.abs);
      const at = sizes.indexOf(Math.max(...sizes));
      return ["LR", "PA", "FH"][at][axis[at] * sign > 0 ? 1 : 0];
    };
    const shown = { left: name(right, -1), right: name(right, 1), top: name(up, 1), bottom: name(up, -1) };
    for (const [side, letter] of Object.entries(shown)) {
      box.querySelector(`.letter.${side}`).textContent = letter;
    }
  }

  function toggle(button, body, slices) {
    const index = Number(button.dataset.structure);
    shown[index] = !shown[index];
    button.setAttribute("aria-pressed", String(shown[index]));
    if (body.meshes[index]) body.view.setMeshProperty(body.meshes[index].id, "visible", shown[index]);
    slices.labels.setColormapLabel(labelColours());
    slices.view.updateGLVolume();
  }

  function showScan(button, view) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    // the scan's back half, cut where the kidneys are, stands behind the structures
    view.setClipPlane(on ? [0, 180, 0] : [2, 0, 0]);
    view.setOpacity(0, on ? 1 : 0);
  }

  function turn(button, view) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    let before = performance.now();
    const step = (now) => {
      if (button.getAttribute("aria-pressed") !== "true") return;
      const { renderAzimuth, renderElevation } = view.scene;
      view.setRenderAzimuthElevation((renderAzimuth + (now - before) * 0.03) % 360, renderElevation);
      before = now;
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  try {
    const body = await makeBody();
    const slices = await makeSlices();
    for (const button of box.querySelectorAll("[data-structure]")) {
      button.addEventListener("click", () => toggle(button, body, slices));
    }
    const turning = document.getElementById("turn");
    for (const button of box.querySelectorAll("[data-look]")) {
      button.addEventListener("click", () => {
        turning.setAttribute("aria-pressed", "false");
        body.view.setRenderAzimuthElevation(...looks[button.dataset.look]);
      });
    }
    turning.addEventListener("click", () => turn(turning, body.view));
    const scan = document.getElementById("scan");
    scan.addEventListener("click", () => showScan(scan, body.view));
    box.dataset.state = "ready";
  } catch (problem) {
    box.dataset.state = "failed";
    document.getElementById("failure").textContent =
      `This browser does not show the 3-D view (${problem.message}); a picture stands in for it.`;
  }
})();
