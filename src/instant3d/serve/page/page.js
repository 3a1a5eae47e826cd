// The page of `instant3d serve`: keeps the jobs, follows the one that is shown, and passes both to what shows them.

import * as about from "./about.js";
import * as api from "./api.js";
import { $, complain, nameOf, say, setText, stateOf } from "./dom.js";
import * as form from "./form.js";
import * as lists from "./lists.js";
import * as viewer from "./viewer.js";

const PAGE = 24; // jobs asked for at once
const EVERY_MS = 2000; // how often the list is asked for while something is queued or running
const jobs = new Map(); // by id, the newest first
const actions = { show: lookAt, cancel: (id) => attempt(() => cancel(id)) };
let shown = null; // the id of the job in the viewer
let next = null; // where the list goes on with older jobs
let stopFollowing = () => {};
let followed = null;
let timer = 0;
let isLoading = true; // no worker has its networks yet

const isActive = (job) => !api.isOver(job);

// Runs what may fail: asks for the token where the server wants one, else shows the sentence.
async function attempt(action, place = $("problem")) {
  try {
    complain(place, null);
    await action();
  } catch (error) {
    report(error, place);
  }
}

function report(error, place) {
  if (error instanceof api.LoginNeeded) askForToken();
  else complain(place, error.message);
}

// Puts a list of jobs, the newest first, in front of the others.
function mergeNewest(list) {
  list.forEach(announce);
  const others = [...jobs].filter(([id]) => list.every((job) => job.id !== id));
  jobs.clear();
  for (const [id, job] of [...list.map((job) => [job.id, job]), ...others]) jobs.set(id, job);
}

function update(job) {
  announce(job);
  jobs.set(job.id, job);
}

function announce(job) {
  const before = jobs.get(job.id);
  const words = job.id === shown ? stateOf : ({ state }) => state;
  if (before && words(before) !== words(job)) say(`${nameOf(job)}: ${job.error ?? stateOf(job)}`);
}

function render() {
  lists.showQueue(jobs, shown, actions);
  lists.showGallery(jobs, shown, actions);
  const job = jobs.get(shown);
  if (job) {
    about.describe(job);
    viewer.present(job);
  } else {
    $("about").hidden = true;
    viewer.clear();
  }
}

function show(id) {
  shown = id;
  history.replaceState(null, "", id ? `#${id}` : location.pathname); // a reload shows the same job
  follow(jobs.get(id));
  render();
}

function lookAt(id) {
  show(id);
  $("screen").scrollIntoView({ block: "nearest" }); // the gallery is below it, on a phone the form above
}

// One stream at a time, for a browser opens six connections to a server; the list has the others.
function follow(job) {
  if (followed === job?.id && job && isActive(job)) return;
  stopFollowing();
  followed = job && isActive(job) ? job.id : null;
  if (!followed) return;
  stopFollowing = api.follow(job.id, (changed) => {
    update(changed);
    render();
    if (api.isOver(changed)) {
      followed = null;
      schedule(0);
    }
  });
}

async function refresh() {
  const { jobs: newest, next: following } = await api.jobs(PAGE);
  const ids = new Set(newest.map(({ id }) => id));
  const last = following === null ? "" : newest.at(-1).created;
  for (const job of [...jobs.values()].filter(({ id }) => !ids.has(id))) {
    if (job.created > last) jobs.delete(job.id); // deleted elsewhere
    else if (isActive(job)) await api.job(job.id).then(update, () => jobs.delete(job.id));
  }
  mergeNewest(newest);
  const { version, system, running, queued, ready, fault } = await api.health();
  if (isLoading && ready) form.showDefaults(await api.models());
  isLoading = !ready;
  const work = isLoading ? "loading the models" : `${running} running, ${queued} waiting`;
  setText($("server"), `${version} · ${system} · ${work}`);
  complain($("trouble"), fault && `The models cannot be loaded: ${fault}`);
  if (jobs.get(shown)) follow(jobs.get(shown));
  render();
  return following;
}

function schedule(delay = EVERY_MS) {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    await refresh().catch((error) => report(error, $("trouble")));
    if (isLoading || [...jobs.values()].some(isActive)) schedule();
  }, delay);
}

async function send() {
  $("send").disabled = true;
  await attempt(async () => {
    const job = await api.submit(form.request());
    mergeNewest([job]);
    say(`${nameOf(job)}: ${stateOf(job)}`);
    if (!isActive(jobs.get(shown) ?? { state: "done" })) lookAt(job.id);
    else render();
    schedule(0);
  });
  $("send").disabled = false;
}

async function cancel(id) {
  const job = await api.remove(id);
  if (job) update(job);
  render();
}

async function remove() {
  if (!(await confirmed($("confirm")))) return;
  await api.remove(shown);
  jobs.delete(shown);
  show(null);
  $("gallery").scrollIntoView({ block: "nearest" });
}

function confirmed(dialog) {
  dialog.returnValue = ""; // Esc keeps it
  dialog.showModal();
  return new Promise((resolve) => (dialog.onclose = () => resolve(dialog.returnValue === "delete")));
}

async function more() {
  const { jobs: older, next: following } = await api.jobs(PAGE, next);
  for (const { id } of older) jobs.delete(id); // one that the address named may be there already, out of order
  older.forEach(update);
  goOnFrom(following);
  render();
}

function goOnFrom(place) {
  next = place;
  $("more").hidden = place === null;
}

function askForToken() {
  if (!$("login").open) $("login").showModal();
}

async function login(event) {
  event.preventDefault();
  try {
    await api.login($("token").value);
    location.reload();
  } catch (error) {
    complain($("login-problem"), error.message);
    $("token").select();
  }
}

async function start() {
  form.offer(await api.models());
  goOnFrom(await refresh());
  const newest = [...jobs.values()];
  const wanted = location.hash.slice(1);
  if (wanted && !jobs.has(wanted)) await api.job(wanted).then(update, () => {});
  const first = jobs.get(wanted) ?? newest.find((job) => job.state === "running") ?? newest.find((job) => job.state === "done");
  if (first) show(first.id);
  schedule();
}

form.prepare(send);
viewer.prepare();
$("login").firstElementChild.onsubmit = login;
$("login").oncancel = (event) => event.preventDefault(); // nothing works without the token
$("copy").onclick = about.copyCommand;
$("again").onclick = () => form.refill(jobs.get(shown));
$("remove").onclick = () => attempt(remove, $("failure"));
$("more").onclick = () => attempt(more);
attempt(start);
