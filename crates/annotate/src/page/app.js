// The page's state, keys and talk with the server. Unsent input is kept in the tab until it is confirmed.

import { board, checks, conversation, el, markdown, rubric } from "/view.js";
import { WORDS } from "/words.js";

const $ = (id) => document.getElementById(id);
/** A pause longer than this is no work. */
const IDLE_MS = 60_000;
/** How often an empty queue and the board look for news. */
const POLL_MS = 5_000;

const state = {
  token: "", task: null, rows: [], at: 0, active: 0, editing: false, noting: false, view: "rows", report: null,
  lang: navigator.language.startsWith("zh") ? "zh" : "en", busy: false, active_ms: {}, seen: Date.now(),
};
const words = () => WORDS[state.lang];
const row = () => state.rows[state.at];
const sealed = () => row()?.own != null;

// ---- server

async function ask(path, body) {
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { authorization: `Bearer ${state.token}`, ...(body && { "content-type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({ error: response.statusText }));
  if (!response.ok) throw Object.assign(new Error(answer.error), { status: response.status });
  return answer;
}

async function load() {
  const here = row()?.id;
  const [me, queue] = await Promise.all([ask("/api/me"), ask("/api/queue")]);
  state.task = me;
  state.rows = [...queue.done, ...queue.open];
  const same = state.rows.findIndex((r) => r.id === here && r.own == null);
  state.at = same >= 0 ? same : queue.done.length;
  if (same < 0) begin();
}

// ---- drafts: labels, correction, note of a row that is not confirmed

function draft() {
  if (sealed()) return row().own;
  const key = `draft ${state.task.name} ${row().id}`;
  const kept = JSON.parse(sessionStorage.getItem(key) ?? "null");
  return kept ?? { labels: {}, correction: null, note: null, keep: true };
}

function keep(change) {
  const next = { ...draft(), ...change };
  sessionStorage.setItem(`draft ${state.task.name} ${row().id}`, JSON.stringify(next));
}

function choose(rubricIndex, labelIndex) {
  const r = state.task.rubrics[rubricIndex];
  const label = r?.labels[labelIndex];
  if (!label || sealed()) return;
  const { labels } = draft();
  const chosen = labels[r.name] ?? [];
  const many = r.scale === "multi";
  const next = many && chosen.includes(label.name) ? chosen.filter((n) => n !== label.name)
    : many ? r.labels.map((l) => l.name).filter((n) => n === label.name || chosen.includes(n)) : [label.name];
  keep({ labels: { ...labels, [r.name]: next } });
  state.active = rubricIndex;
  // on to the next rubric without a label; a set of labels is left with Tab or →
  if (!many) {
    const open = state.task.rubrics.findIndex((other) => draft().labels[other.name] == null);
    if (open >= 0) state.active = open;
  }
  draw();
}

function complete() {
  const { labels } = draft();
  return state.task.rubrics.every((r) => r.scale === "multi" || labels[r.name]?.length === 1);
}

// ---- time: only while the page is looked at and used

function tick() {
  const now = Date.now();
  if (row() && !sealed() && !document.hidden) {
    state.active_ms[row().id] = (state.active_ms[row().id] ?? 0) + Math.min(now - state.seen, IDLE_MS);
  }
  state.seen = now;
}

// ---- actions

function begin() {
  state.active = 0;
  state.editing = state.noting = false;
  $("main").scrollTop = 0;
}

function move(step) {
  tick();
  const next = state.at + step;
  if (next >= 0 && next < state.rows.length) {
    state.at = next;
    begin();
    draw();
  }
}

async function confirm() {
  if (!row() || sealed() || state.busy) return;
  if (!complete()) return say(words().chooseFirst, true);
  tick();
  state.busy = true;
  const { labels, correction, note, keep: kept } = draft();
  for (const r of state.task.rubrics) labels[r.name] ??= [];
  const { id, kind } = row();
  const answer = { labels, correction, note };
  const sent = { id, answer, seconds: (state.active_ms[id] ?? 0) / 1000, guideline: state.task.guideline.version };
  try {
    await ask(`/api/${kind}`, kind === "adjudicate" ? { ...sent, keep: kept } : sent);
    sessionStorage.removeItem(`draft ${state.task.name} ${id}`);
    say(words().saved);
  } catch (error) {
    say(error.status ? error.message : words().lost, true);
    if (!error.status) { state.busy = false; return; }
  }
  try {
    await load();
  } catch (error) {
    say(error.status ? error.message : words().lost, true);
  }
  state.busy = false;
  draw();
}

function take(index) {
  const check = row()?.checks?.[index];
  if (!check) return;
  keep({ labels: structuredClone(check.labels), correction: check.correction ?? null });
  draw();
}

async function show(view) {
  if (state.task.role === "annotator") return;
  state.view = view;
  if (view === "agreement") state.report = await ask("/api/report").catch((e) => (say(e.message, true), state.report));
  draw();
}

function say(text, bad = false) {
  const status = $("status");
  status.textContent = text;
  status.className = bad ? "shown bad" : "shown";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => (status.className = ""), bad ? 6000 : 1200);
}

function setLanguage(lang) {
  state.lang = lang;
  localStorage.setItem("lang", lang);
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  draw();
}

// ---- drawing

function draw() {
  const t = words();
  const task = state.task;
  if (!task) return $("main").replaceChildren(el("div", { class: "empty" }, el("div", {}, el("h2", {}, t.noToken), el("p", {}, t.noTokenHelp))));
  document.title = `${task.title[state.lang]} · loar`;
  $("title").textContent = task.title[state.lang];
  $("person").textContent = task.name;
  $("stage").textContent = t[row()?.kind ?? task.role];
  $("count").textContent = `${task.done} ${t.done} · ${task.left} ${t.left}`;
  $("bar").style.width = `${(100 * task.done) / Math.max(1, task.done + task.left)}%`;
  $("show-rows").textContent = t.rows;
  $("show-agreement").textContent = t.agreement;
  $("show-agreement").hidden = $("show-rows").hidden = task.role === "annotator";
  $("show-rows").setAttribute("aria-pressed", String(state.view === "rows"));
  $("show-agreement").setAttribute("aria-pressed", String(state.view === "agreement"));
  $("language").textContent = t.language;
  $("help").title = t.help;
  const main = $("main");
  main.dataset.row = row() ? `${state.at}` : "";
  if (state.view === "agreement") main.replaceChildren(state.report ? board(state.report, task, state.lang, t) : "");
  else if (!row()) main.replaceChildren(el("div", { class: "empty" }, el("div", {}, el("h2", {}, t.allDone), el("p", {}, t.allDoneHelp))));
  else main.replaceChildren(rowView(t, task));
  $("keys").replaceChildren(...hints(t));
  const field = $(state.editing ? "correction" : state.noting ? "note" : "");
  if (field) { field.focus(); field.setSelectionRange(field.value.length, field.value.length); }
}

function rowView(t, task) {
  const current = row();
  const now = draft();
  const onText = (text) => keep({ correction: text === current.answer ? null : text });
  const marks = current.checks && ((name, label) => current.checks.map((c, i) => (c.labels[name]?.includes(label) ? "ABC"[i] : "")).join(""));
  const shared = { draft: now, active: state.active, sealed: sealed(), lang: state.lang, words: t, onChoose: choose, marks };
  const note = state.noting
    ? el("textarea", { id: "note", "aria-label": t.note, oninput: (e) => keep({ note: e.target.value }) })
    : now.note && el("div", { class: "card note" }, `${t.note}: ${now.note}`);
  if (state.noting) note.value = now.note ?? "";
  const drops = now.keep === false || task.rubrics.some((r) => r.labels.some((l) => l.drop && now.labels[r.name]?.includes(l.name)));
  const confirmButton = sealed()
    ? el("div", { class: "sealed" }, t.sealed)
    : el("button", { class: `confirm${drops ? " dropping" : ""}`, type: "button", disabled: !complete(), onclick: confirm }, drops ? t.confirmDrop : t.confirm, el("kbd", {}, "⏎"));
  return el(
    "div",
    { class: `row${current.checks ? " wide" : ""}` },
    el("div", { class: "left" },
      el("div", { class: "card talk" }, conversation(current, now, t, state.editing, onText)),
      current.checks && checks(current, task, state.lang, t)),
    el("div", { class: "side" }, task.rubrics.map((r, i) => rubric(r, i, shared)), note, confirmButton),
  );
}

function hints(t) {
  const hint = (keys, text) => el("span", {}, keys.map((k) => [el("kbd", {}, k), " "]), text);
  if (state.view === "agreement" || !row()) return [state.task.role !== "annotator" && hint(["v"], t.keys.view), hint(["g"], t.short.guide), hint(["?"], t.short.help)].filter(Boolean);
  return [
    hint(["1", "–", "9"], t.short.digits), hint(["←", "→"], t.short.rubric), hint(["j", "k"], t.short.move), hint(["⏎"], t.short.enter),
    row().kind !== "audit" && hint(["e"], t.short.edit), hint(["n"], t.short.note), hint(["g"], t.short.guide),
    row().checks && hint(["a", "b", "c"], t.short.take), row().checks && hint(["x"], t.short.out),
    state.task.role !== "annotator" && hint(["v"], t.short.view), hint(["?"], t.short.help),
  ].filter(Boolean);
}

function dialog(...content) {
  const box = $("dialog");
  box.replaceChildren(...content);
  box.showModal();
}

function showHelp() {
  const { keys, help } = words();
  const lines = [["1 – 9", keys.digits], ["← →", keys.rubric], ["j ↓  k ↑", keys.move], ["⏎", keys.enter], ["e", keys.edit], ["z", keys.restore], ["n", keys.note], ["Esc", keys.escape], ["g", keys.guide], ["l", keys.lang], ["?", keys.help]];
  if (state.task.role !== "annotator") lines.push(["a b c", keys.take], ["x", keys.out], ["v", keys.view]);
  dialog(el("h2", {}, help), el("dl", {}, lines.flatMap(([key, text]) => [el("dt", {}, key.split(" ").filter(Boolean).map((k) => [el("kbd", {}, k), " "])), el("dd", {}, text)])));
}

function showGuideline() {
  const { guideline } = state.task;
  dialog(markdown(guideline.text), el("p", { class: "version" }, `${words().version} ${guideline.version}`));
}

// ---- keys

const rubrics = () => state.task.rubrics.length;
const KEYS = {
  j: () => move(1), ArrowDown: () => move(1), k: () => move(-1), ArrowUp: () => move(-1),
  ArrowRight: () => { state.active = (state.active + 1) % rubrics(); draw(); },
  ArrowLeft: () => { state.active = (state.active + rubrics() - 1) % rubrics(); draw(); },
  Enter: confirm,
  e: () => { if (row() && !sealed() && row().kind !== "audit" && row().answer != null) { state.editing = true; draw(); } },
  z: () => { if (row() && !sealed()) { keep({ correction: null }); draw(); } },
  n: () => { if (row() && !sealed()) { state.noting = true; draw(); } },
  a: () => take(0), b: () => take(1), c: () => take(2),
  x: () => { if (row()?.checks) { keep({ keep: !draft().keep }); draw(); } },
  g: showGuideline, "?": showHelp, l: () => setLanguage(state.lang === "en" ? "zh" : "en"),
  v: () => show(state.view === "rows" ? "agreement" : "rows"),
};
/** Keys that act on a row. */
const ON_ROWS = new Set(["j", "k", "ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Enter", "e", "z", "n", "a", "b", "c", "x"]);

document.addEventListener("keydown", (event) => {
  tick();
  if (!state.task || event.isComposing || event.altKey || event.metaKey) return;
  if ($("dialog").open) {
    if (["?", "g", "Enter"].includes(event.key)) { event.preventDefault(); $("dialog").close(); }
    return;
  }
  if (event.target.tagName === "TEXTAREA") {
    if (event.key === "Escape" || (event.key === "Enter" && event.ctrlKey)) {
      event.preventDefault();
      state.editing = state.noting = false;
      draw();
      $("main").focus();
    }
    return;
  }
  // a focused button takes its own Enter and space
  if (event.ctrlKey || (event.target.tagName === "BUTTON" && [" ", "Enter"].includes(event.key))) return;
  if (state.view !== "rows" && (ON_ROWS.has(event.key) || /^[1-9]$/.test(event.key))) return;
  if (/^[1-9]$/.test(event.key) && row()) {
    event.preventDefault();
    choose(state.active, Number(event.key) - 1);
  } else if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
for (const name of ["pointermove", "scroll", "visibilitychange"]) document.addEventListener(name, tick, true);

// a click must not leave the focus on a button that swallows the next Enter
document.addEventListener("click", (event) => { if (event.target.closest("button") && !$("dialog").open && event.detail > 0) $("main").focus(); });
$("show-rows").addEventListener("click", () => show("rows"));
$("show-agreement").addEventListener("click", () => show("agreement"));
$("language").addEventListener("click", () => KEYS.l());
$("help").addEventListener("click", showHelp);

setInterval(async () => {
  if (!state.task || document.hidden || state.busy || state.editing || state.noting) return;
  if (state.view === "agreement") await show("agreement");
  else if (!row() || row().own != null) await load().then(draw, () => {});
}, POLL_MS);

async function start() {
  // the token stands after `#`, which no server sees; it stays in this tab only
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname);
  }
  state.token = sessionStorage.getItem("token") ?? "";
  state.lang = localStorage.getItem("lang") ?? state.lang;
  document.documentElement.lang = state.lang === "zh" ? "zh-CN" : "en";
  try {
    await load();
    if (state.task.role === "admin") return show("agreement");
  } catch (error) {
    if (error.status !== 401) say(error.message, true);
  }
  draw();
}

window.addEventListener("hashchange", start);
start();
