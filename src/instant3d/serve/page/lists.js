// The queue and the gallery.

import { isOver } from "./api.js";
import { $, arrange, element, fill, nameOf, progressOf } from "./dom.js";

// Jobs in the order in which they run.
function active(jobs) {
  const open = [...jobs.values()].filter((job) => !isOver(job));
  return open.sort((a, b) => (a.state === b.state ? (a.position ?? 0) - (b.position ?? 0) : a.state === "running" ? -1 : 1));
}

function thumbnail(job) {
  const views = job.files.find(({ name }) => name === "grid.png");
  return element("span", { className: "thumb" }, ...(views ? [element("img", { src: views.url, alt: "", loading: "lazy" })] : []));
}

// `actions` has show(id) and cancel(id).
export function showQueue(jobs, shown, actions) {
  const open = active(jobs);
  $("queue").hidden = !open.length;
  arrange($("jobs"), open.map(({ id }) => id), (id) => row(id, actions));
  for (const job of open) updateRow([...$("jobs").children].find((child) => child.dataset.key === job.id), job, shown);
}

function row(id, { show, cancel }) {
  const open = element("button", { type: "button", className: "open" }, element("span", { className: "thumb" }),
    element("span", { className: "words" }, element("span", { className: "name" }), element("span", { className: "state" })));
  const stop = element("button", { type: "button", className: "stop", textContent: "Cancel" });
  open.onclick = () => show(id);
  stop.onclick = () => cancel(id);
  return element("li", {}, open, stop, element("progress"));
}

function updateRow(item, job, shown) {
  item.querySelector(".name").textContent = nameOf(job);
  item.querySelector(".state").textContent = progressOf(job);
  item.querySelector(".open").setAttribute("aria-current", job.id === shown);
  item.querySelector(".stop").ariaLabel = `Cancel ${nameOf(job)}`;
  item.querySelector("progress").ariaLabel = `Progress of ${nameOf(job)}`;
  fill(item.querySelector("progress"), job);
  if (!item.querySelector("img")) item.querySelector(".thumb").replaceWith(thumbnail(job));
}

export function showGallery(jobs, shown, actions) {
  const over = [...jobs.values()].filter(isOver);
  $("none").hidden = over.length > 0;
  arrange($("cards"), over.map(({ id }) => id), (id) => card(jobs.get(id), actions));
  for (const item of $("cards").children) item.firstChild.setAttribute("aria-current", item.dataset.key === shown);
}

function card(job, { show }) {
  const words = element("span", { className: "name", textContent: nameOf(job) });
  const note = job.state === "done" ? [] : [element("span", { className: "state", textContent: job.state })];
  const open = element("button", { type: "button" }, thumbnail(job), words, ...note);
  open.onclick = () => show(job.id);
  return element("li", {}, open);
}
