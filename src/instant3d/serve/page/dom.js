// Elements, and the words for what the server counts. Text goes through textContent alone.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Makes the children of `list` those of `keys` in order. A child stays the same element, so focus is not lost.
export function arrange(list, keys, make) {
  const present = new Map([...list.children].map((child) => [child.dataset.key, child]));
  keys.forEach((key, k) => {
    const child = present.get(key) ?? make(key);
    child.dataset.key = key;
    present.delete(key);
    if (list.children[k] !== child) list.insertBefore(child, list.children[k] ?? null);
  });
  for (const child of present.values()) child.remove();
}

export function say(sentence) {
  if ($("status").textContent !== sentence) $("status").textContent = sentence;
}

export function complain(place, sentence) {
  place.textContent = sentence ?? "";
  place.hidden = !sentence;
}

export const nameOf = (job) => job.prompt ?? "from images";

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${Math.round(count / 1000)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

const PARTS = {
  load: "Loading the models",
  text: "Encoding the prompt",
  denoise: "Generating the views",
  decode: "Decoding the views",
  network: "Generating the shape",
  reconstruct: "Reconstructing the shape",
  surface: "Extracting the mesh",
  texture: "Texturing the mesh",
  write: "Writing the mesh",
  video: "Rendering the turntable",
};

export function stateOf(job) {
  if (job.state === "queued") return job.position ? `Waiting, ${job.position} before it` : "Waiting, next in line";
  if (job.state === "running") return PARTS[job.progress?.part] ?? job.progress?.part ?? "Starting";
  return { done: "Done", failed: "Failed", cancelled: "Cancelled" }[job.state];
}

export function progressOf(job) {
  const { done, total } = job.progress ?? {};
  return job.state === "running" && total > 1 ? `${stateOf(job)}, ${done} of ${total}` : stateOf(job);
}

export function fill(bar, job) {
  const { done, total } = job.progress ?? {};
  bar.hidden = job.state !== "running";
  if (total > 1) {
    bar.max = total;
    bar.value = done;
  } else bar.removeAttribute("value");
}
