// Asks the worker again and again and draws what `model.js` makes of the answers. Text from answers is only ever set as
// text. Reads only.

import { HEIGHT, WIDTH, charts } from "./chart.js";
import { duration, printable, shortened, time } from "./format.js";
import { RUNBOOKS, chosen, fromHash, toHash, view } from "./model.js";

const REFRESH_MS = 5000;
/** A large table takes its time. */
const TIMEOUT_MS = 20000;
const SVG = "http://www.w3.org/2000/svg";
const NUMBERS = new Set(["for", "behind"]);

const $ = (selector, from = document) => from.querySelector(selector);
const facts = {};
for (const name of ["leases", "status", "history"]) facts[name] = { data: null, atMs: null, error: null };
let choice = fromHash(location.hash);
let paused = false;
let shown = null;
let drawnHistory = "";

// ---- asking

/** What a response holds; null for what is no JSON. No text of it can change the direction of writing. */
function read(body) {
  try {
    return JSON.parse(body, (_, value) => (typeof value === "string" ? printable(value) : value));
  } catch {
    return null;
  }
}

/** Asks for one source. What was known before stays, with its time. */
async function ask(name) {
  const source = facts[name];
  try {
    const response = await fetch(`/api/${name}`, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
    const body = await response.text();
    const json = read(body);
    if (response.ok && json !== null) {
      const ageMs = Number(response.headers.get("age") ?? 0) * 1000;
      Object.assign(source, { data: json, atMs: Date.now() - ageMs, error: null });
    } else {
      const cause = json?.error ?? (printable(body.trim()).slice(0, 300) || `${response.status} ${response.statusText}`.trim());
      source.error = { answered: json !== null, refused: [401, 403].includes(response.status), cause, since: json?.since ?? null };
    }
  } catch (error) {
    const cause = error.name === "TimeoutError" ? `no response within ${TIMEOUT_MS / 1000} s` : "it cannot be reached";
    source.error = { answered: false, refused: false, cause, since: null };
  }
}

async function round() {
  await Promise.all(Object.keys(facts).map(ask));
  draw();
}

async function keepAsking() {
  for (;;) {
    if (!paused && !document.hidden) await round();
    await new Promise((next) => { setTimeout(next, REFRESH_MS); });
  }
}

// ---- drawing

/** Writes only what differs, so that nothing is read out or laid out again for nothing. */
function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

function make(name, { of = [], at = {}, says } = {}) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(at)) element.setAttribute(key, value);
  if (says !== undefined) element.textContent = says;
  element.append(...of);
  return element;
}

function makeSvg(name, at, of = []) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(at)) element.setAttribute(key, value);
  element.append(...of);
  return element;
}

const sign = (level) => makeSvg("svg", { class: "sign", "aria-hidden": "true", "data-level": level }, [makeSvg("use", { href: `#sign-${level}` })]);

function setSign(svg, level) {
  attribute(svg, "data-level", level);
  attribute(svg.firstElementChild, "href", `#sign-${level}`);
}

/** One child for each item, made once and then kept by its key. */
function keyed(parent, items, key, create, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    const child = before.get(name) ?? create(item);
    before.delete(name);
    child.dataset.key = name;
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
    update(child, item);
  }
  for (const child of before.values()) child.remove();
}

/** What to do; commands stand between backquotes. */
function drawNext(element, { next, page }) {
  const says = `${next} ${page ?? ""}`;
  element.hidden = next === "";
  if (element.dataset.says === says) return;
  element.dataset.says = says;
  const parts = next.split("`").map((part, index) => (index % 2 === 1 ? make("code", { says: part }) : part));
  const link = () => make("a", { at: { href: `${RUNBOOKS}${page}.md`, rel: "noopener noreferrer" }, says: `Runbook: ${page}` });
  element.replaceChildren(...parts, ...(page ? [" ", link()] : []));
}

function drawHead(now) {
  const { verdict } = now;
  document.title = `${verdict.word} – ${now.application || "kinetide"}`;
  text($("#application"), now.application);
  text($("#about"), [now.stream && `stream ${now.stream}`, now.worker && `seen by worker ${now.worker}, up ${now.uptime}`, now.delivery].filter(Boolean).join(" · "));
  text($("#build"), now.version ? `kinetide ${now.version}.` : "");
  attribute($("#verdict"), "data-level", verdict.level);
  attribute($("#verdict use"), "href", `#sign-${verdict.level}`);
  text($("#word"), verdict.word);
  text($("#sentence"), verdict.sentence);
  text($("#since"), verdict.since);
  keyed($("#banners"), now.banners, (banner) => banner.about,
    () => make("div", { at: { class: "banner" }, of: [make("p", { of: [make("strong"), " ", make("span")] }), make("p", { at: { class: "next" } })] }),
    (element, banner) => {
      const [says, next] = element.children;
      text(says.firstElementChild, banner.title);
      text(says.lastElementChild, banner.text);
      drawNext(next, banner);
    });
}

function drawFigures(now) {
  keyed($("#figures"), now.figures, (figure) => figure.label,
    (figure) => make("div", { of: [make("dt", { says: figure.label }), make("dd", { at: { class: "value" } }), make("dd", { at: { class: "note" } })] }),
    (element, figure) => {
      attribute(element, "data-level", figure.level);
      text(element.children[1], figure.value);
      text(element.children[2], figure.note);
    });
}

function drawProblems(now) {
  const all = now.problems.slice(0, 8);
  $("#problems").hidden = all.length === 0;
  keyed($("#problems ol"), all, (problem) => `${problem.kind} ${problem.reason} ${problem.next}`,
    () => make("li", { of: [sign("bad"), make("div", { of: [make("h3"), make("p", { at: { class: "what" } }), make("p", { at: { class: "why" } }), make("p", { at: { class: "next" } })] })] }),
    (element, problem) => {
      attribute(element, "data-level", problem.level);
      setSign(element.children[0], problem.level);
      const [title, what, why, next] = element.children[1].children;
      text(title, `${problem.reason}${problem.kind === "leader" ? "" : `: ${problem.title}`}${problem.since ? `, ${problem.since === "unknown" ? "since an unknown time" : `for ${problem.since}`}` : ""}`);
      text(what, problem.what);
      what.hidden = problem.what === "";
      text(why, problem.why);
      why.hidden = problem.why === "";
      drawNext(next, problem);
    });
}

function drawChart(figure, chart) {
  const [caption, svg, times] = figure.children;
  text(caption.children[0], chart.title);
  text(caption.children[1], chart.value);
  text(caption.children[2], chart.more);
  text(times.children[0], chart.start);
  text(times.children[1], chart.empty ? "nothing known yet" : "");
  text(times.children[2], chart.end);
  attribute(svg, "aria-label", chart.summary);
  const grid = chart.axis.map(({ y }) => makeSvg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
  const labels = chart.axis.map(({ y, text: says }) => {
    const label = makeSvg("text", { x: WIDTH + 6, y: y + 3.5 });
    label.textContent = says;
    return label;
  });
  const gaps = chart.gaps.map(({ x, width }) => makeSvg("rect", { fill: "url(#hatch)", x, y: 0, width, height: HEIGHT }));
  const bars = chart.bars.map(({ x, y, height }) => makeSvg("rect", { class: "bars", x, y, width: 3, height }));
  const lines = chart.lines.map((d, index) => makeSvg("path", { class: `line line-${index}`, d })).reverse();
  svg.replaceChildren(...gaps, ...grid, ...labels, ...bars, ...lines, makeSvg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" }));
  svg.onpointermove = (event) => {
    const box = svg.getBoundingClientRect();
    const found = chart.at(((event.clientX - box.left) / box.width) * ((WIDTH + 50) / WIDTH));
    const cursor = svg.lastElementChild;
    for (const [name, value] of Object.entries(found ? { x1: found.x, x2: found.x, visibility: "visible" } : { visibility: "hidden" })) cursor.setAttribute(name, value);
    text(times.children[1], found ? found.text : "");
  };
  svg.onpointerleave = () => drawChart(figure, chart);
}

function drawHistory(now) {
  const history = facts.history.data;
  const newest = `${history?.since} ${history?.points?.length} ${history?.points?.at(-1)?.time} ${now.worker}`;
  if (newest === drawnHistory) return;
  drawnHistory = newest;
  const from = history ? time(Date.parse(history.points?.[0]?.time ?? history.since), Date.now()) : "";
  text($("#history-by"), history ? `As worker ${now.worker ?? "unknown"} saw its own shards since ${from}. Hatched: unknown.` : "Not read yet.");
  keyed($("#history .charts"), charts(history, Date.now(), now.worker ?? "unknown"), (chart) => chart.id,
    (chart) => make("figure", { of: [
      make("figcaption", { of: [make("span"), make("strong"), make("span"), make("span", { at: { class: "legend" }, of: chart.legend.map((says, index) => make("span", { at: { class: `key key-${index}` }, says })) })] }),
      makeSvg("svg", { viewBox: `-2 -5 ${WIDTH + 52} ${HEIGHT + 10}`, role: "img" }),
      make("p", { at: { class: "times" }, of: [make("span"), make("span"), make("span")] }),
    ] }),
    drawChart);
}

function bar() {
  const track = make("span", { at: { class: "track", "aria-hidden": "true" }, of: [make("span", { at: { class: "fill" } })] });
  return make("span", { at: { class: "load" }, of: [make("span"), track] });
}

function setBar(cell, percent, says) {
  const [number, track] = cell.firstElementChild.children;
  text(number, says);
  track.hidden = typeof percent !== "number";
  track.firstElementChild.style.width = `${Math.min(100, Math.max(0, percent ?? 0))}%`;
}

const cell = (label, at = {}, of = []) => make("td", { at: { role: "cell", "data-label": label, ...at }, of });

function drawWorkers(now) {
  $("#workers").classList.toggle("several", now.severalStreams);
  keyed($("#workers tbody"), now.workers, (row) => row.key,
    () => make("tr", { at: { role: "row" }, of: [
      make("th", { at: { scope: "row", role: "rowheader" }, of: [make("span"), make("span", { at: { class: "tag" }, says: "leader" })] }),
      cell("State", {}, [sign("ok"), make("span")]), cell("Leases", { class: "number" }), cell("CPU", {}, [bar()]),
      cell("Throughput", {}, [bar()]), cell("Last seen"), cell("Streams", { class: "streams" }),
    ] }),
    (row, worker) => {
      const [name, state, leases, cpu, throughput, seen, streams] = row.children;
      text(name.firstElementChild, worker.worker);
      name.lastElementChild.hidden = !worker.leader;
      setSign(state.firstElementChild, worker.level);
      text(state.lastElementChild, worker.state);
      text(leases, String(worker.leases));
      setBar(cpu, worker.cpuPercent, worker.cpu);
      setBar(throughput, worker.throughputPercent, worker.throughput);
      text(seen, worker.seen);
      text(streams, worker.streams);
    });
}

function shardRow() {
  return make("tr", { at: { role: "row" }, of: [
    make("th", { at: { scope: "row", role: "rowheader" } }), cell("Stream", { class: "stream" }), cell("Owner"),
    cell("State", { class: "state" }, [sign("ok"), make("span"), make("small")]), cell("For"), cell("Behind"),
    cell("Delivered until"), cell("Checkpoint", { class: "checkpoint" }),
  ] });
}

function drawShard(element, row) {
  const [shard, stream, owner, state, since, behind, delivered, checkpoint] = element.children;
  attribute(element, "data-level", row.level);
  text(shard, row.shard);
  text(stream, row.stream);
  text(owner, row.nextOwner ? `${row.owner} → ${row.nextOwner}` : row.owner);
  setSign(state.children[0], row.level);
  text(state.children[1], row.state);
  text(state.children[2], row.stuck ? row.why : "");
  text(since, row.since);
  text(behind, row.behind);
  text(delivered, row.delivered);
  text(checkpoint, shortened(row.checkpoint, 17));
  attribute(checkpoint, "title", row.checkpoint);
}

function drawShards(now) {
  const rows = chosen(now.shards, choice);
  $("#shards").classList.toggle("several", now.severalStreams);
  for (const head of document.querySelectorAll("#shards th[data-sort]")) {
    const direction = head.dataset.sort !== choice.sort ? "none" : choice.down ? "descending" : "ascending";
    attribute(head, "aria-sort", direction);
  }
  text($("#stuck-count"), now.fleetKnown ? `(${now.stuck})` : "");
  const all = now.shards.length;
  text($("#shown"), !now.fleetKnown ? "" : rows.length === all ? `${all.toLocaleString("en-US")} shards` : `${rows.length.toLocaleString("en-US")} of ${all.toLocaleString("en-US")} shards`);
  keyed($("#shards tbody"), rows, (row) => row.key, shardRow, drawShard);
}

function drawNotes(now) {
  $("#notes").hidden = now.notes.length === 0;
  keyed($("#notes ul"), now.notes.slice(0, 50), (note) => note, () => make("li"), text);
}

function drawTime() {
  const read = Math.min(facts.leases.atMs ?? 0, facts.status.atMs ?? 0);
  const old = (Date.now() - read) / 1000;
  text($("#as-of"), read === 0 ? "not read yet" : `${paused ? "paused, as of" : "as of"} ${time(read, Date.now())}${old > 8 || shown?.banners.length > 0 ? `, ${duration(old)} ago` : ""}`);
}

function draw() {
  performance.mark("draw");
  const now = view({ ...facts, nowMs: Date.now(), paused });
  shown = now;
  drawHead(now);
  drawFigures(now);
  drawProblems(now);
  drawHistory(now);
  drawWorkers(now);
  drawShards(now);
  drawNotes(now);
  drawTime();
  document.body.classList.toggle("old-fleet", now.old.fleet);
  document.body.classList.toggle("old-history", now.old.history);
  performance.clearMeasures("draw");
  performance.measure("draw", "draw");
  performance.clearMarks("draw");
}

// ---- what people do

function choose(change) {
  choice = { ...choice, ...change };
  const hash = toHash(choice);
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  if (shown) drawShards(shown);
}

function showChoice() {
  $("#text").value = choice.text;
  $("#stuck").checked = choice.stuck;
}

$("#choose").addEventListener("submit", (event) => event.preventDefault());
$("#text").addEventListener("input", (event) => choose({ text: event.target.value }));
$("#stuck").addEventListener("change", (event) => choose({ stuck: event.target.checked }));
for (const head of document.querySelectorAll("#shards th[data-sort]")) {
  const sort = head.dataset.sort;
  // The most first, where that is what is looked for.
  $("button", head).addEventListener("click", () => choose({ sort, down: choice.sort === sort ? !choice.down : NUMBERS.has(sort) }));
}
$(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("#shards").focus();
  $("#shards").scrollIntoView();
});
$("#pause").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  if (paused) drawTime();
  else round();
});
addEventListener("hashchange", () => {
  choice = fromHash(location.hash);
  showChoice();
  if (shown) drawShards(shown);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) round(); });
// What is shown grows old by itself.
setInterval(() => (shown && Date.now() - Math.min(facts.leases.atMs ?? 0, facts.status.atMs ?? 0) > 2 * REFRESH_MS ? draw() : drawTime()), 1000);

showChoice();
keepAsking();
