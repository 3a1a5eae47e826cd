"use strict";
// The state is one list of [id, label] in the order in which they were given; whatever has no label is still to come.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (name) => document.getElementById(name);
const known = new Map(data.subjects.map((subject) => [subject.id, subject]));
const LABELS = ["good", "bad", "skip"];
const KEYS = {
  g: "good", arrowright: "good", b: "bad", arrowleft: "bad", s: "skip", arrowdown: "skip",
  u: "undo", arrowup: "undo", backspace: "undo", e: "json", t: "text",
};
let given = [];

function sound(rows) {
  const seen = new Set();
  const fits = (row) => Array.isArray(row) && known.has(row[0]) && LABELS.includes(row[1]) && !seen.has(row[0]);
  return Array.isArray(rows) ? rows.filter((row) => fits(row) && seen.add(row[0])) : [];
}

function load() {
  try {
    given = sound(JSON.parse(localStorage.getItem(data.key) ?? "null") ?? data.labels);
  } catch {
    given = sound(data.labels);
  }
}

function keep() {
  try {
    localStorage.setItem(data.key, JSON.stringify(given));
    at("warning").textContent = "";
  } catch {
    at("warning").textContent = "This browser keeps nothing: export before you close the page.";
  }
}

function show() {
  const done = new Set(given.map(([id]) => id));
  const left = data.subjects.filter((subject) => !done.has(subject.id));
  const next = left[0];
  const count = (label) => given.filter((row) => row[1] === label).length;
  at("progress").max = data.subjects.length;
  at("progress").value = given.length;
  at("counts").textContent =
    `${given.length} of ${data.subjects.length}: ${count("good")} good, ${count("bad")} bad, ${count("skip")} skipped`;
  at("picture").style.visibility = next ? "visible" : "hidden";
  if (next) at("picture").src = next.picture;
  at("caption").textContent = next ? next.caption ?? "" : "All done. Export the labels.";
  at("id").textContent = next ? next.id : "";
  for (const label of LABELS) at(label).disabled = !next;
  at("undo").disabled = given.length === 0;
  if (left[1]) new Image().src = left[1].picture;  // to be there at once
  return next;
}

function label(word) {
  const next = show();
  if (next) given.push([next.id, word]);
}

function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function act(word) {
  if (word === "json") {
    save("labels.json", "application/json", JSON.stringify({ format: data.format, labels: given }, null, 1) + "\n");
  } else if (word === "text") {
    save("labels.txt", "text/plain", given.map(([id, word]) => `${id}\t${word}\n`).join(""));
  } else {
    if (word === "undo") given.pop();
    else label(word);
    keep();
  }
  show();
}

document.addEventListener("keydown", (event) => {
  const word = KEYS[event.key.toLowerCase()];
  if (!word || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  event.preventDefault();
  act(word);
});
for (const word of [...LABELS, "undo", "json", "text"]) {
  at(word).addEventListener("click", (event) => {
    event.currentTarget.blur();
    act(word);
  });
}
load();
show();
