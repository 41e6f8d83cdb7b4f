// Charts of what the asked worker saw, as numbers and paths. Pure: the page draws them.
//
// A point that is unknown is a gap, and so is a time without a point.

import { UNKNOWN, bytes, count, duration, instant, time } from "./format.js";

export const WIDTH = 320;
export const HEIGHT = 96;
/** Bars are not narrower than this many units. */
const BAR = 4;

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** The newest point; undefined without one. */
export function latest(history) {
  return history?.points?.[history.points.length - 1];
}

/** The sum of one member over all points; `sum` is null where no point knows it. */
export function total(history, member) {
  const points = history?.points ?? [];
  const seen = points.filter((point) => known(point[member]));
  const last = seen.filter((point) => point[member] > 0).pop();
  return {
    sum: seen.length === 0 ? null : seen.reduce((sum, point) => sum + point[member], 0),
    complete: seen.length === points.length,
    lastMs: last ? instant(last.time) : null,
  };
}

/** A sum in words, that may not be complete. */
export function atLeast({ sum, complete }) {
  if (sum === null) return UNKNOWN;
  if (complete) return count(sum);
  return sum > 0 ? `≥ ${count(sum)}` : "none seen";
}

/** 1, 2 or 5 times a power of ten, not below `value`; of times in seconds a round number of minutes or hours. */
export function ceiling(value, inSeconds) {
  if (!(value > 0)) return 1;
  if (inSeconds) {
    const round = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800];
    const found = round.find((step) => step >= value);
    if (found) return found;
  }
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999) ?? 10 * power;
}

/** "10 s", "2 min", "4 h" at an axis. */
function span(seconds) {
  for (const [size, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${Number((seconds / size).toPrecision(3))} ${name}`;
  return `${Number(seconds.toPrecision(2))} s`;
}

/** What the three charts show, and how. */
const CHARTS = [
  {
    id: "lag", title: "Lag", least: 10, inSeconds: true, axis: span, shown: duration,
    series: [
      { name: "age of the oldest record not in the lake", short: "not in the lake", of: (point) => point.delivered_age_seconds },
      { name: "reader behind the tip", short: "reader", of: (point) => (known(point.millis_behind) ? point.millis_behind / 1000 : null) },
    ],
  },
  {
    id: "throughput", title: "Throughput", least: 10, inSeconds: false, axis: count, shown: (value) => (known(value) ? `${count(value)} records/s` : UNKNOWN),
    series: [{ name: "records delivered a second", short: "records/s", of: (point) => point.records_per_second }],
    more: (point) => (known(point.bytes_per_second) ? `${bytes(point.bytes_per_second)}/s` : ""),
  },
  {
    id: "dead", title: "Dead letters", least: 2, inSeconds: false, axis: count, shown: count, bars: true,
    series: [{ name: "records that became dead letters", short: "dead letters", of: (point) => point.dead_letters }],
  },
];

/** From point to point, with a gap where one is unknown or missing. */
function line(points, of, x, y, stepMs) {
  let path = "";
  let before = null;
  for (const point of points) {
    const value = of(point);
    if (!known(value)) {
      before = null;
      continue;
    }
    const joined = before !== null && point.ms - before <= stepMs * 2.5;
    path += `${joined ? "L" : "M"}${x(point.ms)} ${y(value)}`;
    // One point alone is a dot: the line has round ends.
    if (!joined) path += "h0";
    before = point.ms;
  }
  return path;
}

/** Sums of neighbours, so that a bar can be seen. */
function bars(points, of, startMs, endMs) {
  const slots = Math.floor(WIDTH / BAR);
  const width = (endMs - startMs) / slots || 1;
  const sums = new Map();
  for (const point of points) {
    const value = of(point);
    if (!known(value)) continue;
    const slot = Math.min(slots - 1, Math.max(0, Math.floor((point.ms - startMs) / width)));
    sums.set(slot, (sums.get(slot) ?? 0) + value);
  }
  return sums;
}

/** Stretches of time of which nothing is known, as x and width. */
function gaps(points, of, x, startMs, endMs, stepMs) {
  const found = [];
  let from = startMs;
  for (const point of points) {
    if (!known(of(point))) continue;
    if (point.ms - from > stepMs * 2.5) found.push([from, point.ms]);
    from = point.ms;
  }
  if (endMs - from > stepMs * 2.5) found.push([from, endMs]);
  return found.map(([a, b]) => ({ x: x(a), width: Math.max(1, Math.round((x(b) - x(a)) * 10) / 10) }));
}

/** Everything that is needed to draw; none before the first point. */
export function charts(history, nowMs, worker) {
  if (!history) return [];
  const stepMs = (history.step_seconds ?? 30) * 1000;
  const points = (history.points ?? []).map((point) => ({ ...point, ms: instant(point.time) })).filter((point) => point.ms !== null);
  const endMs = points.length > 0 ? points[points.length - 1].ms : nowMs;
  const startMs = points.length > 0 ? Math.min(points[0].ms, endMs - stepMs * 10) : nowMs - stepMs * 10;
  const x = (ms) => Math.round(((ms - startMs) / (endMs - startMs)) * WIDTH * 10) / 10;
  return CHARTS.map((chart) => {
    const slots = chart.bars ? bars(points, chart.series[0].of, startMs, endMs) : null;
    const values = slots ? [...slots.values()] : points.flatMap((point) => chart.series.map((series) => series.of(point)).filter(known));
    const most = values.length === 0 ? null : values.reduce((one, other) => Math.max(one, other), 0);
    const top = Math.max(chart.least, ceiling(most ?? 0, chart.inSeconds));
    const y = (value) => Math.round((HEIGHT - (Math.min(value, top) / top) * HEIGHT) * 10) / 10;
    const last = points[points.length - 1];
    const now = last ? chart.series[0].of(last) : null;
    const sum = total(history, "dead_letters");
    const value = chart.bars ? atLeast(sum) : chart.shown(now);
    const more = last && chart.more ? chart.more(last) : "";
    const from = points.length > 0 ? time(points[0].ms, nowMs) : time(instant(history.since), nowMs);
    return {
      id: chart.id, title: chart.title, value, more,
      // Only this one says which line is which.
      legend: chart.series.length > 1 ? chart.series.map((series) => series.short) : [],
      lines: slots ? [] : chart.series.map((series) => line(points, series.of, x, y, stepMs)),
      bars: slots ? [...slots].filter(([, sumOf]) => sumOf > 0).map(([slot, sumOf]) => ({ x: slot * BAR, y: y(sumOf), height: Math.round((HEIGHT - y(sumOf)) * 10) / 10 })) : [],
      gaps: gaps(points, chart.series[0].of, x, startMs, endMs, stepMs),
      axis: [{ y: 0, text: chart.axis(top) }, { y: HEIGHT / 2, text: chart.axis(top / 2) }, { y: HEIGHT, text: "0" }],
      empty: most === null,
      start: time(startMs, nowMs).slice(0, -4), end: time(endMs, nowMs).slice(0, -4),
      // For who does not see the picture.
      summary: most === null ? `${chart.title}: unknown.` : chart.bars ? `${chart.title} since ${from}, as worker ${worker} saw it: ${value}${sum.lastMs ? `, the last ${time(sum.lastMs, nowMs)}` : ""}.`
        : `${chart.title} since ${from}, as worker ${worker} saw it: ${chart.series[0].name} now ${value}, at most ${chart.shown(most)}.`,
      at: (share) => pointAt(points, chart, startMs + share * (endMs - startMs), stepMs, nowMs, x),
    };
  });
}

/** What the chart shows at one time, in words. */
function pointAt(points, chart, ms, stepMs, nowMs, x) {
  let near = null;
  for (const point of points) if (near === null || Math.abs(point.ms - ms) < Math.abs(near.ms - ms)) near = point;
  if (near === null || Math.abs(near.ms - ms) > stepMs) return null;
  const values = chart.series.map((series) => `${chart.series.length > 1 ? `${series.short} ` : ""}${chart.shown(series.of(near))}`);
  return { x: x(near.ms), text: `${time(near.ms, nowMs)}: ${values.join(", ")}` };
}
