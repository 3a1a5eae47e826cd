// What is said of the job that is shown: its settings, its files, its command.

import { isOver } from "./api.js";
import { $, arrange, bytes, complain, element, nameOf, setText } from "./dom.js";

const SHOWN_FIRST = /^mesh[._]/;

export function describe(job) {
  $("about").hidden = false;
  setText($("name"), nameOf(job));
  setText($("facts"), facts(job).join(" · "));
  complain($("failure"), job.state === "failed" ? job.error : null);
  setText($("command"), job.command);
  $("remove").hidden = !isOver(job);
  const files = [...job.files].sort((a, b) => SHOWN_FIRST.test(b.name) - SHOWN_FIRST.test(a.name));
  $("downloads-title").hidden = !files.length;
  arrange($("downloads"), files.map(({ name, bytes, url }) => `${url} ${bytes} ${name}`), (key) => {
    const { name, bytes: size, url } = files.find((file) => key === `${file.url} ${file.bytes} ${file.name}`);
    const link = element("a", { href: `${url}?download=1`, download: name, textContent: name });
    link.append(element("span", { className: "hint", textContent: ` ${bytes(size)}` }));
    return element("li", {}, link);
  });
}

function facts({ state, prompt, options, created, started, finished, result }) {
  const said = [new Date(created).toLocaleString()];
  if (state === "cancelled") said.push("cancelled");
  if (prompt !== null) said.push(`seed ${options.seed}`);
  if (options.preset) said.push(`for ${options.preset}`);
  const { faces, texture } = result?.mesh ?? {};
  if (faces) said.push(`${faces.toLocaleString("en")} triangles`);
  if (texture) said.push(`texture ${texture} px`);
  if (state === "done") said.push(`made in ${((new Date(finished) - new Date(started)) / 1000).toFixed(1)} s`);
  return said;
}

export async function copyCommand() {
  const text = $("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch { // there is no clipboard on plain http beyond loopback
    getSelection().selectAllChildren($("command"));
    document.execCommand("copy");
  }
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 2000);
}
