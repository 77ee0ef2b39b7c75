// What the page shows, built from nodes and text only: data can never become markup.

/** An element with attributes, listeners (`onclick`) and children; strings become text. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value === true) node.setAttribute(key, "");
    else if (value !== false && value != null) node.setAttribute(key, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text != null) node.append(text);
  return node;
}

/** Markdown's headings, lists, paragraphs, `code` and **bold**; everything else stays text. */
export function markdown(text) {
  const out = el("div", { class: "guide" });
  let list = null;
  let paragraph = null;
  for (const line of text.split("\n")) {
    const heading = /^(#{1,3}) (.*)/.exec(line);
    const item = /^\s*[-*] (.*)/.exec(line);
    if (heading) {
      out.append(el(`h${heading[1].length}`, {}, inline(heading[2])));
      list = paragraph = null;
    } else if (item) {
      if (!list) out.append((list = el("ul")));
      list.append(el("li", {}, inline(item[1])));
      paragraph = null;
    } else if (line.trim() === "") {
      list = paragraph = null;
    } else {
      if (!paragraph) out.append((paragraph = el("p")));
      else paragraph.append(" ");
      paragraph.append(...inline(line));
      list = null;
    }
  }
  return out;
}

function inline(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
    if (part.startsWith("`") && part.length > 2) return el("code", {}, part.slice(1, -1));
    if (part.startsWith("**") && part.length > 4) return el("b", {}, part.slice(2, -2));
    return part;
  });
}

/** The conversation; the judged turn shows the correction, or a field to write it in. */
export function conversation(row, draft, words, editing, onText) {
  return row.turns.map((turn) => {
    const changed = turn.judged && draft.correction != null;
    const text = changed ? draft.correction : turn.text;
    const field = () => {
      const area = el("textarea", { id: "correction", "aria-label": words.correction, oninput: () => onText(area.value) });
      area.value = text;
      return area;
    };
    return el(
      "article",
      { class: `turn ${turn.role}${turn.judged ? " judged" : ""}` },
      el("div", { class: "who" }, words.roles[turn.role] ?? turn.role, turn.judged ? ` · ${words.judged}` : "",
        changed && el("span", { class: "edited" }, words.edited)),
      turn.thinking && el("div", { class: "thinking", "data-name": words.thinking }, turn.thinking),
      turn.judged && editing ? field() : el("div", { class: "text" }, text),
      turn.calls && el("pre", { "aria-label": words.calls }, turn.calls),
    );
  });
}

/** One rubric with its labels; `marks` says who chose which label (adjudication). */
export function rubric(rubric, index, state) {
  const { draft, active, sealed, lang, words, onChoose, marks } = state;
  const chosen = draft.labels[rubric.name] ?? [];
  const kind = rubric.scale === "multi" ? "checkbox" : "radio";
  return el(
    "section",
    { class: `card rubric${index === active && !sealed ? " active" : ""}`, role: kind === "radio" ? "radiogroup" : "group", "aria-label": rubric.title[lang] },
    el("h2", {}, rubric.title[lang]),
    el("div", { class: "labels" }, rubric.labels.map((label, i) =>
      el(
        "button",
        { class: "label", type: "button", role: kind, "aria-checked": String(chosen.includes(label.name)), disabled: sealed, onclick: () => onChoose(index, i) },
        el("kbd", {}, String(i + 1)),
        el("span", { class: "name" }, label.title[lang]),
        marks && el("span", { class: "mine" }, marks(rubric.name, label.name)),
        label.drop && el("span", { class: "drop" }, words.drops),
      ))),
  );
}

/** The three checks side by side; what stands alone is red. */
export function checks(row, task, lang, words) {
  const title = (rubric, names) =>
    (names ?? []).map((name) => rubric.labels.find((l) => l.name === name)?.title[lang] ?? name).join(", ") || "–";
  const said = (check, rubric) => JSON.stringify(check.labels[rubric.name]);
  const alone = (check, rubric) => row.checks.filter((c) => said(c, rubric) === said(check, rubric)).length === 1;
  const cards = row.checks.map((check, i) =>
    el(
      "div",
      { class: "check" },
      el("h3", {}, el("kbd", {}, "ABC"[i])),
      el("dl", {}, task.rubrics.flatMap((r) => [
        el("dt", {}, r.title[lang]),
        el("dd", { class: alone(check, r) ? "differs" : "" }, title(r, check.labels[r.name])),
      ])),
      check.correction != null && el("div", { class: "text" }, el("span", { class: "edited" }, words.correction), "\n", check.correction),
      check.note && el("div", { class: "remark" }, check.note),
    ));
  const opinion = row.opinion && el(
    "div",
    { class: "opinion" },
    el("p", {}, words.model),
    el("dl", {}, task.rubrics.flatMap((r) => [
      el("dt", {}, r.title[lang]),
      el("dd", {}, row.opinion[r.name] ? title(r, row.opinion[r.name]) : words.abstains),
    ])),
  );
  return el(
    "section",
    { class: "card" },
    el("div", { class: "pair" }, el("h2", {}, words.threeChecks),
      row.posterior != null && el("span", { class: "small" }, `${words.posterior} ${row.posterior.toFixed(3)}`)),
    el("div", { class: "checks" }, cards),
    opinion,
  );
}

const number = (x, digits = 3) => (x == null ? "–" : x.toFixed(digits));
const percent = (x) => (x == null ? "–" : `${(100 * x).toFixed(0)} %`);

/** α with its interval on the line from 0 to 1, the cut-offs marked. */
function scale(rubric) {
  const x = (value) => 12 + 376 * Math.max(0, Math.min(1, value));
  const plot = svg("svg", { viewBox: "0 0 400 46", class: rubric.verdict, role: "img", "aria-label": `α ${number(rubric.alpha)}` });
  plot.append(svg("line", { class: "axis", x1: 12, x2: 388, y1: 16, y2: 16 }));
  for (const cut of [0.667, 0.8]) {
    plot.append(svg("line", { class: "cut", x1: x(cut), x2: x(cut), y1: 4, y2: 30 }));
    plot.append(svg("text", { x: x(cut), y: 42, "text-anchor": "middle" }, String(cut)));
  }
  plot.append(svg("text", { x: 12, y: 42, "text-anchor": "middle" }, "0"), svg("text", { x: 388, y: 42, "text-anchor": "middle" }, "1"));
  if (rubric.interval) plot.append(svg("line", { class: "span", x1: x(rubric.interval.low), x2: x(rubric.interval.high), y1: 16, y2: 16 }));
  if (rubric.alpha != null) plot.append(svg("circle", { class: "point", cx: x(rubric.alpha), cy: 16, r: 8 }));
  return plot;
}

function table(titles, rows) {
  const cell = (name, content, i) => el(name, { class: i ? "number" : "" }, content);
  return el("table", {}, el("thead", {}, el("tr", {}, titles.map((t, i) => cell("th", t, i)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((c, i) => cell("td", c, i))))));
}

/** The agreement board. */
export function board(report, task, lang, words) {
  const title = (name) => task.rubrics.find((r) => r.name === name)?.title[lang] ?? name;
  const tiles = Object.entries(report.stages).map(([stage, n]) =>
    el("div", { class: "tile" }, el("b", {}, String(n)), el("span", {}, words.stages[stage] ?? stage)));
  const rubrics = report.rubrics.map((r) =>
    el(
      "section",
      { class: "card" },
      el("h2", {}, title(r.name)),
      el("div", { class: r.verdict }, el("span", { class: "alpha" }, `α ${number(r.alpha)}`), el("span", { class: "badge" }, words.verdicts[r.verdict])),
      scale(r),
      el("p", { class: "small" },
        `${r.units} ${words.units}` +
        (r.interval ? ` · ${words.interval} ${number(r.interval.low)} – ${number(r.interval.high)}` : "") +
        ` · Fleiss κ ${number(r.fleiss)} · AC1 ${number(r.gwet_ac1)}`),
      table([words.annotators, `α ${words.without}`, "Dawid–Skene"],
        Object.entries(r.alpha_without).map(([who, a]) => [who, number(a), percent(r.dawid_skene?.raters[who]?.accuracy)])),
      r.pairs.length > 0 && table([words.pairs, "n", "κ", words.weighted], r.pairs.map((p) => [`${p.a} – ${p.b}`, String(p.units), number(p.kappa), number(p.weighted)])),
    ));
  const people = el("section", { class: "card" }, el("h2", {}, words.annotators),
    table(["", words.checks, words.gold, words.interval, words.seconds], report.annotators.map((a) => [
      a.name, String(a.checks), a.gold ? `${a.gold_right} / ${a.gold}` : "–",
      a.gold ? `${percent(a.gold_interval[0])} – ${percent(a.gold_interval[1])}` : "–",
      a.median_seconds == null ? "–" : `${a.median_seconds} s`,
    ])));
  const batches = el("section", { class: "card" }, el("h2", {}, words.batches),
    report.batches.length === 0 ? el("p", { class: "small" }, words.none) :
      table([words.batch, words.round, "n", "α", ""], report.batches.map((b) => [
        String(b.batch + 1), String(b.round), String(b.items), Object.values(b.alpha).map((a) => number(a)).join(" / "),
        Object.entries(b.outcomes).map(([o, n]) => `${n} ${words.outcomes[o]}`).join(", "),
      ])));
  const a = report.audit;
  const audit = el("section", { class: "card" }, el("h2", {}, words.auditTitle),
    table(["", "n"], [[words.auditWaiting, String(a.waiting)], [words.auditDone, String(a.done)], [words.auditWrong, String(a.wrong)], [words.auditAllowed, String(a.allowed)]]),
    a.passes != null && el("p", { class: a.passes ? "reliable" : "unreliable" }, a.passes ? words.passes : words.fails));
  const j = report.judge;
  const judge = j && el("section", { class: "card" }, el("h2", {}, `${words.judge}: ${j.model}`),
    el("p", { class: "small" }, `${percent(j.order_flip_rate)} ${words.flips}, ${percent(j.wording_flip_rate)} ${words.wordings} · ${j.prompt_tokens + j.completion_tokens} ${words.tokens} · ${words.cost} ${number(j.cost, 2)}`),
    table(["", words.right, words.interval, "κ", words.abstained], j.rubrics.map((r) => [
      title(r.name), `${r.right} / ${r.decided - r.abstained}`, `${percent(r.interval[0])} – ${percent(r.interval[1])}`, number(r.kappa), String(r.abstained)])));
  return el("div", { class: "board" },
    el("section", { class: "card full" }, el("div", { class: "tiles" }, tiles)),
    rubrics, people, batches, audit, judge,
    el("p", { class: "small full" }, `${words.head}: ${report.head.seq} · ${report.head.hash} · ${words.guideline} ${report.guideline}`));
}
