// The API of `instant3d serve`: requests, whose errors are sentences, and the events of one job.

const ROOT = "/api/v1/";

export class LoginNeeded extends Error {}

async function request(path, options = {}) {
  const response = await fetch(ROOT + path, options).catch(() => {
    throw new Error("The server does not answer; is it still running?");
  });
  if (response.status === 401) throw new LoginNeeded("This token is not the one of the server.");
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error ?? `The server answered with status ${response.status}.`);
  return body;
}

const json = (value) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export const health = () => request("health");
export const models = () => request("models");
export const login = (token) => request("login", json({ token }));
export const job = (id) => request(`jobs/${encodeURIComponent(id)}`);
export const remove = (id) => request(`jobs/${encodeURIComponent(id)}`, { method: "DELETE" });

// The newest jobs, and `next`, from which the older ones are asked for.
export const jobs = (limit, before = null) => request(`jobs?${new URLSearchParams({ limit, ...(before && { before }) })}`);

export function submit({ prompt, files, options }) {
  if (!files.length) return request("jobs", json({ prompt, ...options }));
  const body = new FormData();
  body.append("options", JSON.stringify(options));
  for (const file of files) body.append(isZip(file) ? "scene" : "images", file);
  return request("jobs", { method: "POST", body });
}

export const isZip = (file) => file.name.toLowerCase().endsWith(".zip");

// Calls `changed` with the whole job at every change until it is over. Returns a function that stops this.
export function follow(id, changed) {
  const events = new EventSource(`${ROOT}jobs/${encodeURIComponent(id)}/events`);
  events.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    if (isOver(job)) events.close(); // else the browser would ask again
    changed(job);
  });
  return () => events.close();
}

export const isOver = (job) => ["done", "failed", "cancelled"].includes(job.state);
