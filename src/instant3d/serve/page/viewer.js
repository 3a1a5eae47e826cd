// The viewer: the views, the turntable or the mesh of the job that is shown, and the tools for the mesh.

import { isOver } from "./api.js";
import { $, complain, fill, nameOf, progressOf, setText, stateOf } from "./dom.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const FILES = { views: ["grid.png"], turntable: ["turntable.webp", "turntable.mp4"], mesh: ["mesh.glb"] };
const INVITATION = $("empty").textContent;
const ORBIT = "30deg 75deg 105%";
let model = null; // the <model-viewer>, once there is a mesh
let shown = { id: null, part: null }; // the part that someone chose for this job

function file(job, part) {
  return job.files.find(({ name }) => FILES[part].includes(name));
}

// Shows a job: the part that was chosen, or the newest there is.
export function present(job) {
  if (shown.id !== job.id) shown = { id: job.id, part: null };
  const parts = Object.keys(FILES).filter((part) => file(job, part));
  const best = still.matches ? parts.filter((part) => part !== "turntable") : parts;
  const part = parts.includes(shown.part) ? shown.part : best.at(-1);
  $("bar").hidden = !parts.length;
  for (const radio of document.getElementsByName("part")) {
    radio.parentElement.hidden = !parts.includes(radio.value);
    radio.checked = radio.value === part;
    radio.onchange = () => {
      shown.part = radio.value;
      present(job);
    };
  }
  loadModelViewer(); // while the job runs, so that its mesh need not wait
  showPart(job, part);
  showBusy(job);
}

const loadModelViewer = () => import("./vendor/model-viewer.min.js"); // 1 MB, so not for an empty page

export function clear() {
  shown = { id: null, part: null };
  for (const name of ["bar", "busy"]) $(name).hidden = true;
  showPart(null, undefined);
}

function showPart(job, part) {
  const found = part && file(job, part);
  const isVideo = Boolean(found?.media_type.startsWith("video/"));
  $("screen").dataset.part = part ?? "empty";
  $("empty").hidden = Boolean(part) || Boolean(job && !isOver(job));
  setText($("empty"), job ? stateOf(job) : INVITATION);
  $("image").hidden = !part || part === "mesh" || isVideo;
  $("video").hidden = !isVideo;
  $("mesh").hidden = part !== "mesh";
  $("tools").hidden = part !== "mesh";
  if (part === "mesh") showMesh(found.url, nameOf(job));
  else if (isVideo) play(found.url);
  else if (found) {
    setSource($("image"), found.url);
    $("image").alt = `${nameOf(job)}: ${part === "views" ? "the four views" : "turntable"}`;
  }
}

function setSource(image, url) {
  if (image.getAttribute("src") !== url) image.setAttribute("src", url); // the same again would load it again
}

function play(url) {
  setSource($("video"), url);
  if (!still.matches) $("video").play().catch(() => {}); // refused: its controls are there
}

function showBusy(job) {
  const busy = job.state === "queued" || job.state === "running";
  $("busy").hidden = !busy;
  setText($("busy-text"), progressOf(job));
  fill($("busy-bar"), job);
}

async function showMesh(url, name) {
  if (!model) {
    model = document.createElement("model-viewer");
    const settings = {
      "camera-controls": "", "camera-orbit": ORBIT, "touch-action": "pan-y", "interaction-prompt": "none",
      "shadow-intensity": "0.7", "shadow-softness": "0.9", "tone-mapping": "neutral", "environment-image": "neutral",
      "rotation-per-second": "20deg", "auto-rotate-delay": "0", "loading": "eager",
    };
    for (const [key, value] of Object.entries(settings)) model.setAttribute(key, value);
    model.addEventListener("load", applySurface);
    model.addEventListener("error", () => complain($("failure"), "The browser could not show this mesh."));
    $("mesh").append(model);
  }
  setSource(model, url);
  model.setAttribute("alt", `${name}: the mesh; arrow keys turn it, plus and minus zoom`);
}

// model-viewer has no wireframe: its three.js scene is behind a symbol of this name.
function scene() {
  return model[Object.getOwnPropertySymbols(model).find((symbol) => symbol.description === "scene")];
}

function applySurface() {
  if (!model.loaded) return; // it is called again then
  const surface = $("surface").value;
  scene().traverse(({ isMesh, material }) => {
    if (!isMesh || !material.isMeshStandardMaterial) return;
    material.userData.original ??= { map: material.map, color: material.color.clone(), vertexColors: material.vertexColors };
    const { map, color, vertexColors } = material.userData.original;
    const plain = surface === "clay";
    material.color.copy(color);
    if (plain) material.color.setRGB(0.38, 0.36, 0.34);
    Object.assign(material, { map: plain ? null : map, vertexColors: vertexColors && !plain });
    material.wireframe = surface === "wireframe";
    material.needsUpdate = true;
  });
  scene().queueRender();
}

export function prepare() {
  $("surface").onchange = applySurface;
  $("light").onchange = () => model.setAttribute("environment-image", $("light").value);
  $("exposure").oninput = () => model.setAttribute("exposure", $("exposure").value);
  $("turn").onchange = () => model.toggleAttribute("auto-rotate", $("turn").checked);
  $("reset").onclick = () => {
    if (!model.loaded) return;
    model.cameraOrbit = ORBIT;
    model.cameraTarget = "auto auto auto";
    model.fieldOfView = "auto";
    model.resetTurntableRotation();
  };
  $("full").onclick = () => (document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen());
  $("full").hidden = !document.fullscreenEnabled;
}
