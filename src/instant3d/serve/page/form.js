// The form: its fields become a request, and a finished job fills its fields again.

import { isZip } from "./api.js";
import { $, complain, element } from "./dom.js";

const EXAMPLES = ["a red fire hydrant", "a blue boat", "a green chair", "a yellow tractor", "a purple mushroom"];
const IMAGES = ["image/png", "image/jpeg", "image/webp"];
const MAX_IMAGES = 4;
const FACES = [2000, 5000, 10000, 20000, 50000, 100000];
const TEXTURES = [512, 1024, 2048, 4096];
const fields = $("form").elements;
let chosen = [];

export function prepare(send) {
  for (const text of EXAMPLES) {
    const example = element("button", { type: "button", className: "chip", textContent: text });
    example.onclick = () => Object.assign(fields.prompt, { value: text }).focus();
    $("examples").append(example);
  }
  for (const radio of fields.kind) radio.onchange = showKind;
  $("dice").onclick = () => (fields.seed.value = crypto.getRandomValues(new Uint32Array(1))[0]);
  fields.prompt.onkeydown = (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    $("form").requestSubmit();
  };
  $("form").onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  acceptFiles();
  showKind();
}

// Offers what the models can do: the answer of /models.
export function offer({ presets, formats, limits }) {
  for (const name of presets) fields.preset.append(new Option(name));
  for (const count of FACES) fields.faces.append(new Option(count.toLocaleString("en"), count));
  fields.faces.append(new Option("all", "full"));
  for (const size of TEXTURES) fields.texture.append(new Option(`${size} px`, size));
  fields.texture.append(new Option("none", "none"));
  fields.steps.max = limits.steps;
  for (const name of formats) {
    const box = element("input", { type: "checkbox", name: "format", value: name, checked: name === "glb" });
    box.disabled = name === "glb"; // the viewer shows it
    $("formats").append(element("label", { className: "check" }, box, name));
  }
}

// What the weights are sampled with, which is known once they are loaded: the answer of /models.
export function showDefaults({ steps, guidance }) {
  for (const [name, value] of Object.entries({ steps, guidance }))
    fields[name].placeholder = value === null ? "default" : `default (${value})`;
}

const showsImages = () => fields.kind.value === "images";

function showKind() {
  $("from-text").hidden = showsImages();
  $("from-images").hidden = !showsImages();
  for (const label of document.querySelectorAll(".text-only")) label.hidden = showsImages();
  complain($("problem"), null);
}

function acceptFiles() {
  $("files").onchange = () => {
    choose([...$("files").files]);
    $("files").value = ""; // so that the same file can be chosen again
  };
  document.body.ondragover = (event) => {
    if (!event.dataTransfer.types.includes("Files")) return; // text may be dropped on the prompt
    event.preventDefault();
    document.body.classList.add("dropping");
  };
  document.body.ondragleave = (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  };
  document.body.ondrop = (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    choose([...event.dataTransfer.files]);
  };
}

function choose(files) {
  fields.kind.value = "images";
  showKind();
  const all = files.some(isZip) ? files : [...chosen.filter((file) => !isZip(file)), ...files];
  const problem = fault(all);
  complain($("problem"), problem);
  if (!problem) chosen = all;
  showChosen();
}

function fault(files) {
  if (files.some(isZip)) return files.length > 1 ? "A scene .zip goes alone, without other files." : null;
  const other = files.find((file) => !IMAGES.includes(file.type));
  if (other) return `${other.name} is not a PNG, JPEG or WebP image, nor a .zip.`;
  return files.length > MAX_IMAGES ? `At most ${MAX_IMAGES} images; these are ${files.length}.` : null;
}

function showChosen() {
  for (const image of $("chosen").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("chosen").replaceChildren(...chosen.map((file) => {
    const preview = isZip(file)
      ? element("span", { textContent: file.name })
      : element("img", { src: URL.createObjectURL(file), alt: file.name });
    const drop = element("button", { type: "button", textContent: "×", ariaLabel: `Leave out ${file.name}` });
    drop.onclick = () => {
      chosen = chosen.filter((other) => other !== file);
      showChosen();
      $("files").focus();
    };
    return element("li", {}, preview, drop);
  }));
}

const numberOr = (value, other) => (value === "" ? other : Number.isNaN(Number(value)) ? value : Number(value));

// What the form holds; throws a sentence where it cannot be sent.
export function request() {
  const prompt = fields.prompt.value.replace(/\s+/g, " ").trim();
  if (!showsImages() && !prompt) throw new Error("Write a prompt first.");
  if (showsImages() && !chosen.length) throw new Error("Choose 1 to 4 images or a scene .zip first.");
  const wrong = [...fields].find((field) => field.willValidate && !field.validity.valid && field.closest("[hidden]") === null);
  if (wrong) throw new Error(`${wrong.labels[0].textContent.trim()}: ${wrong.validationMessage}`);
  const options = {
    faces: numberOr(fields.faces.value, null),
    texture: numberOr(fields.texture.value, null),
    resolution: numberOr(fields.resolution.value, null),
    preset: fields.preset.value || null,
    formats: [...$("formats").querySelectorAll(":checked")].map((box) => box.value),
  };
  if (showsImages()) return { files: chosen, options };
  options.seed = numberOr(fields.seed.value, 0);
  options.steps = numberOr(fields.steps.value, null);
  options.guidance = numberOr(fields.guidance.value, null);
  options.negative_prompt = fields.negative_prompt.value;
  return { prompt, files: [], options };
}

// Fills the form with the settings of a job.
export function refill({ prompt, options }) {
  if (prompt !== null) fields.prompt.value = prompt;
  fields.kind.value = prompt === null ? "images" : "text";
  for (const name of ["faces", "texture"]) // a program may have asked for another number
    if (options[name] && ![...fields[name].options].some(({ value }) => value === String(options[name])))
      fields[name].append(new Option(options[name]));
  for (const name of ["seed", "steps", "guidance", "negative_prompt", "faces", "texture", "preset", "resolution"])
    fields[name].value = options[name] ?? "";
  for (const box of $("formats").querySelectorAll("input:not(:disabled)"))
    box.checked = (options.formats ?? []).includes(box.value);
  showKind();
  $(showsImages() ? "files" : "prompt").focus();
}
