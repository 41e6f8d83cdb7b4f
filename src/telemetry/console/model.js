// What the page shows, from what the worker answers. Pure: no document, no clock, no network.
//
// Owns: the verdict, what counts as trouble and how much, the rows of the tables.
// Does not own: why a shard is not read and what to do (the worker says it), how it looks (`app.js`).

import { UNKNOWN, bytes, count, duration, instant, percent, plural, time } from "./format.js";
import { atLeast, latest, total } from "./chart.js";

/** Where people find the pages of docs/runbooks. */
export const RUNBOOKS = "https://github.com/kinetide/kinetide/blob/main/docs/runbooks/";

/** From here on a shard is behind; as in the alert KinetideDeliveredAgeHigh. */
export const BEHIND_SECONDS = 900;
/** The fleet has this long to give a shard to a worker; as in the alert KinetideShardsNotRead. */
export const NOT_READ_SECONDS = 120;
/** The fleet may be without a leader for this long; as in the alert KinetideLeaderOverdue. */
export const NO_LEADER_SECONDS = 60;
/** A source that was not answered for so long is old, even if no request has failed yet. */
const OLD_SECONDS = 20;

/** So much of the past says whether the age falls or grows. */
const TREND_SECONDS = 600;
/** Shards and causes that are named one by one where several have the same trouble. */
const NAMED_MAX = 3;

/** From good to bad. `none` is what needs no judgement. */
const LEVELS = ["none", "ok", "unknown", "warn", "bad"];
const worse = (one, other) => (LEVELS.indexOf(one) >= LEVELS.indexOf(other) ? one : other);

/** The fleet mends these by itself, in time. */
const PASSING = new Set(["unowned", "not_picked_up", "owner_silent", "handing_off", "no_lease"]);
/** A finished parent mends this; it is the parent that may be in trouble. */
const WAITING = "waiting_for_parents";

const PAGES = {
  unowned: "shards-not-read", no_leader: "no-leader", no_worker: "tasks-missing", no_room: "no-room",
  stream_not_read: "stream-not-read", owner_silent: "stuck-lease", not_picked_up: "stuck-lease",
  handing_off: "stuck-lease", hand_off_stuck: "stuck-lease", no_lease: "shard-holes",
  row_not_understood: "shards-not-read", shard_unknown: "checkpoints-trimmed", other_stream: "stream-recreated",
  stream_recreated: "stream-recreated", stream_mismatch: "stream-recreated",
};
const STALL_PAGES = {
  halted: "shard-halted", throttled: "read-throttled", lake: "delivery-failing", firehose: "firehose",
  lease_table: "coordinator-trouble", stream_recreated: "stream-recreated", not_found: "stream-recreated",
};

const words = (reason) => String(reason).replaceAll("_", " ");

/** A few of them, and how many more. */
function named(all, mark = ", ") {
  const more = all.length - NAMED_MAX;
  return more > 0 ? `${all.slice(0, NAMED_MAX).join(mark)} and ${count(more)} more` : all.join(mark);
}

/** "12 s", or "≥ 12 s" for what was so at the first look. */
function since(seconds, atLeast) {
  return seconds === null || seconds === undefined ? UNKNOWN : `${atLeast ? "≥ " : ""}${duration(seconds)}`;
}

/** How bad it is that nobody has read a shard for so long. */
function notRead(reason, seconds) {
  if (reason === WAITING) return "none";
  return PASSING.has(reason) && !(seconds > NOT_READ_SECONDS) ? "warn" : "bad";
}

/** For how long nobody has read the shard of a lease. A leader has watched for longer than who looks at the page. */
function unreadFor(status) {
  const of = (stream, shard) => `${streamOfAccount(stream)}/${shard}`;
  const led = new Map((status?.fleet?.not_read ?? []).map((one) => [of(one.stream, one.shard), one]));
  return (lease) => {
    const watched = led.get(of(lease.stream, lease.shard));
    const longer = watched?.reason === lease.reason && watched.for_ms / 1000 > (lease.for_seconds ?? 0);
    return longer ? { seconds: watched.for_ms / 1000, atLeast: watched.at_least } : { seconds: lease.for_seconds, atLeast: lease.at_least === true };
  };
}

/** A stream by the name that people know: of an ARN, or of what lease keys have. */
function streamName(text) {
  if (typeof text !== "string") return "";
  if (text.startsWith("arn:")) return text.slice(text.lastIndexOf("/") + 1);
  return /^\d+:[^:]+:\d+$/.test(text) ? text.split(":")[1] : text;
}

/** Account and name of a stream, where the text has the account. */
function streamOfAccount(text) {
  const parts = /^arn:[^:]*:kinesis:[^:]*:(\d+):stream\/(.+)$/.exec(text ?? "") ?? /^(\d+):([^:]+):\d+$/.exec(text ?? "");
  return parts ? `${parts[1]}:${parts[2]}` : "";
}

/** Shards that the asked worker reads, to be found by a lease. */
function own(status) {
  const shards = new Map();
  for (const shard of status?.shards ?? []) {
    // A lease of an application with one stream does not name it.
    for (const stream of [streamOfAccount(shard.stream) || shard.stream, ""]) shards.set(`${stream}/${shard.shard}`, shard);
  }
  return (lease) => {
    const streams = lease.stream === null ? [""] : [streamOfAccount(lease.stream), streamName(lease.stream)];
    const found = streams.map((stream) => shards.get(`${stream}/${lease.shard}`)).find((shard) => shard !== undefined);
    return lease.owner === status?.worker ? found : undefined;
  };
}

/** Streams by their names; with the account where several have the same. */
function streamNames(leases) {
  const all = new Map();
  for (const { stream } of leases) all.set(streamName(stream), (all.get(streamName(stream)) ?? new Set()).add(stream));
  return (stream) => (all.get(streamName(stream)).size > 1 ? streamOfAccount(stream) : streamName(stream));
}

/** The row of one lease, with what to sort by. */
function shardRow(lease, mine, unread, stream, nowMs) {
  const finished = lease.state === "finished";
  const stalled = mine?.state === "stalled" ? mine : null;
  const ageMs = finished ? null : mine?.delivered_age_ms ?? lease.delivered_age_ms ?? null;
  const behind = ageMs !== null && ageMs / 1000 > BEHIND_SECONDS;
  const row = {
    key: lease.lease ?? lease.shard,
    shard: lease.shard,
    stream,
    owner: lease.owner ?? (finished ? "" : "nobody"),
    nextOwner: lease.next_owner ?? "",
    level: "ok",
    state: "read",
    why: "",
    stuck: false,
    forSeconds: null,
    atLeast: false,
    since: "",
    behind: finished ? "" : ageMs === null ? UNKNOWN : duration(ageMs / 1000),
    behindMs: ageMs,
    isBehind: behind,
    delivered: finished ? "to its end" : time(instant(lease.delivered_until), nowMs),
    deliveredMs: instant(lease.delivered_until),
    checkpoint: lease.checkpoint ? checkpoint(lease.checkpoint) : UNKNOWN,
  };
  if (finished) return { ...row, level: "none", state: "finished", why: lease.why ?? "" };
  if (lease.state === "not_read") {
    const level = notRead(lease.reason, unread.seconds);
    return {
      ...row, level, state: words(lease.reason), why: lease.why ?? "", stuck: level !== "none",
      forSeconds: unread.seconds, atLeast: unread.atLeast, since: since(unread.seconds, unread.atLeast),
    };
  }
  if (stalled) {
    const seconds = (stalled.stalled_for_ms ?? stalled.state_for_ms) / 1000;
    return {
      ...row, level: "bad", state: `stalled: ${words(stalled.reason)}`, why: stalled.last_error ?? "", stuck: true,
      forSeconds: seconds, since: duration(seconds),
    };
  }
  if (lease.pending?.problem) return { ...row, level: "bad", stuck: true, state: "batch pending", why: lease.pending.problem };
  if (lease.state === "unheard") {
    return { ...row, level: "unknown", state: "not renewed yet", forSeconds: lease.for_seconds, since: since(lease.for_seconds, lease.at_least) };
  }
  if (behind) return { ...row, level: "warn", state: "read, behind" };
  return { ...row, state: lease.pending ? "read, batch pending" : "read" };
}

function checkpoint(text) {
  return /^\d/.test(text) ? text : text.toLowerCase().replaceAll("_", " ");
}

/** What is wrong with shards, those with one reason and one thing to do together. */
function shardProblems(leases, rows) {
  const groups = new Map();
  leases.forEach((lease, index) => {
    const row = rows[index];
    if (!row.stuck) return;
    const isStalled = lease.state !== "not_read";
    const reason = isStalled ? row.state.replace(/^stalled: /, "") : words(lease.reason);
    const next = isStalled ? stalledStep(reason) : lease.next_step ?? "";
    const id = JSON.stringify([isStalled, reason, next]);
    const group = groups.get(id) ?? {
      level: row.level, reason, shards: [], whys: [], seconds: null, atLeast: false, next, isStalled,
      worst: { shard: row.shard, why: row.why },
      page: isStalled ? STALL_PAGES[reason.replaceAll(" ", "_")] ?? "shard-stalled" : PAGES[lease.reason] ?? "shards-not-read",
    };
    group.level = worse(group.level, row.level);
    group.shards.push(row.stream ? `${row.stream} ${row.shard}` : row.shard);
    if (row.why && !group.whys.includes(row.why)) group.whys.push(row.why);
    if (row.forSeconds !== null && row.forSeconds !== undefined && row.forSeconds >= (group.seconds ?? 0)) {
      group.seconds = row.forSeconds;
      group.worst = { shard: row.shard, why: row.why };
      group.atLeast = row.atLeast;
    }
    groups.set(id, group);
  });
  return [...groups.values()].map((group) => ({
    level: group.level,
    kind: "shards",
    reason: group.reason,
    count: group.shards.length,
    does: group.isStalled ? "makes no progress" : "is not read",
    title: group.shards.length === 1 ? `1 shard ${group.isStalled ? "makes no progress" : "is not read"}` : `${plural(group.shards.length, "shard")} ${group.isStalled ? "make no progress" : "are not read"}`,
    what: named(group.shards),
    why: named(group.whys, "; "),
    worst: group.worst,
    seconds: group.seconds,
    since: since(group.seconds, group.atLeast),
    atLeast: group.atLeast,
    next: group.next,
    page: group.page,
  }));
}

function stalledStep(reason) {
  if (reason === "halted") return "a person must decide: the page says what to look at";
  return "the worker retries by itself, and a restart does not help: remove the cause; the page says where to look for each reason";
}

/** Null while the fleet is led. */
function leaderProblem(leader) {
  const problem = {
    kind: "leader", reason: "no leader", title: "No worker is the leader", what: "",
    next: "start a worker, or read the workers' logs: one of them becomes leader when the old lock expires", page: "no-leader",
  };
  const assigned = "no leases are assigned until a worker takes it";
  if (!leader) return { ...problem, level: "bad", why: `there is no leader lock; ${assigned}`, seconds: null, since: UNKNOWN };
  if (!leader.expired && !leader.released) return null;
  const seconds = Math.max(0, leader.unmoved_seconds - (leader.released ? 0 : leader.lease_seconds));
  const why = leader.released ? `${leader.worker} released the leader lock; ${assigned}` : `the lock of the leader ${leader.worker} has expired; ${assigned}`;
  // Another worker takes it, in time. What was so at the first look may have been so for long.
  const level = seconds < NO_LEADER_SECONDS && leader.at_least !== true ? "warn" : "bad";
  return { ...problem, level, why, seconds, since: since(seconds, leader.at_least), atLeast: leader.at_least === true };
}

/** What the asked worker says is wrong with itself. */
function workerProblems(status) {
  const found = [];
  const worker = `Worker ${status.worker}`;
  const add = (level, reason, why, next, page, seconds = null) =>
    found.push({ level, kind: "worker", reason, title: worker, what: "", why, next, page, seconds, since: seconds === null ? "" : duration(seconds) });
  if (status.healthy === false) add("bad", "a loop hangs", "the process does not move on", "restart the process, and report this", "not-ready");
  for (const trouble of status.troubles ?? []) {
    const stream = trouble.stream ? ` of ${streamName(trouble.stream)}` : "";
    add(trouble.lasting ? "bad" : "warn", `${trouble.call} fails`, `${trouble.purpose}${stream}: ${trouble.cause}`,
      "the worker retries by itself: remove the cause", "coordinator-trouble", trouble.for_ms / 1000);
  }
  const gone = (status.not_ready ?? []).find((why) => why.startsWith("the lease table is gone"));
  if (gone) add("bad", "lease table lost", gone, "stop all workers, then restore the table from a backup", "lease-table-lost");
  if (status.draining) add("warn", "draining", "it shuts down and gives its leases to other workers", "nothing to do", null);
  else if (!gone) for (const why of (status.not_ready ?? []).filter((why) => why.startsWith("starting"))) add("warn", "starting", why, "nothing to do, for some seconds", "not-ready");
  if (status.settings_problem) add("warn", "settings file", status.settings_problem, "correct the file; the settings from before stay in force", null);
  const collision = status.fleet?.worker_id_collision_ms_ago;
  if (typeof collision === "number" && collision < 3600e3) {
    add("bad", "worker id collision", "another process uses this worker's id", "give each worker an id of its own", "worker-id-collision", collision / 1000);
  }
  const export_ = status.cloudwatch?.trouble;
  if (export_) add("warn", "metrics for CloudWatch", export_.cause ?? "", "remove the cause; no data is touched by it", null, (export_.for_ms ?? 0) / 1000);
  return found;
}

/** Whether the oldest age of all is getting smaller, by what the asked worker saw lately. */
function trend(history) {
  const all = history?.points ?? [];
  const from = instant(all.at(-1)?.time) - TREND_SECONDS * 1000;
  const points = all.filter((point) => point.delivered_age_seconds !== null && instant(point.time) >= from);
  if (points.length < 2) return null;
  const [first, last] = [points[0], points[points.length - 1]];
  const moved = last.delivered_age_seconds - first.delivered_age_seconds;
  const took = (instant(last.time) - instant(first.time)) / 1000;
  if (!(took > 0) || Math.abs(moved) < 1) return { word: "Behind" };
  if (moved > 0) return { word: "Falling behind" };
  return { word: "Catching up", leftSeconds: last.delivered_age_seconds / (-moved / took) };
}

/** Since when the asked worker's shards have been behind; undefined where it does not know. */
function behindSince(history) {
  const points = history?.points ?? [];
  let began;
  for (let index = points.length - 1; index >= 0; index -= 1) {
    if (!(points[index].delivered_age_seconds > BEHIND_SECONDS)) return began;
    began = { ms: instant(points[index].time), atLeast: index === 0 };
  }
  return began;
}

function behindProblem(rows, history, nowMs) {
  const behind = rows.filter((row) => row.isBehind);
  if (behind.length === 0) return null;
  const worst = behind.reduce((one, other) => (other.behindMs > one.behindMs ? other : one));
  const direction = trend(history) ?? { word: "Behind" };
  const began = behindSince(history);
  const seconds = began ? (nowMs - began.ms) / 1000 : null;
  const left = direction.leftSeconds ? `; at this pace for another ${duration(direction.leftSeconds)}` : "";
  return {
    level: "warn", kind: "behind", word: direction.word, reason: direction.word.toLowerCase(),
    title: `${plural(behind.length, "shard")} ${behind.length === 1 ? "has" : "have"} records older than ${BEHIND_SECONDS / 60} min that are not in the lake`,
    what: named(behind.map((row) => row.shard)),
    why: `the oldest are ${worst.behind} old, of ${worst.shard}${left}`,
    seconds, atLeast: began?.atLeast === true, since: began ? since(seconds, began.atLeast) : UNKNOWN,
    next: direction.word === "Catching up" ? "nothing to do, if the age goes on falling" : "find out whether reading or delivery is slow: the page says how",
    page: direction.word === "Catching up" ? "reader-behind" : "delivered-age",
  };
}

const WORD = { leader: "No leader", shards: "Stuck", worker: "Trouble" };

/** What is wrong, in a sentence that changes only when something changes: it is read out. */
function sentenceOf(problem) {
  if (problem.kind === "leader") return `${problem.title}: ${problem.why}.`;
  if (problem.kind === "behind") return `${problem.title}.`;
  if (problem.kind === "worker") return `${problem.title}: ${problem.reason}.`;
  const why = problem.worst.why || problem.reason;
  return problem.count === 1 ? `${problem.worst.shard} ${problem.does}: ${why}.` : `${problem.title}; for the longest time ${problem.worst.shard}: ${why}.`;
}

/** "Since 13:00:31 UTC, for 13m 14s" */
function sinceWhen(problem, nowMs) {
  if (problem.seconds === null || problem.seconds === undefined) return problem.kind === "worker" ? "" : "Since an unknown time";
  const at = time(nowMs - problem.seconds * 1000, nowMs);
  return `Since ${problem.atLeast ? `${at} or longer` : at}, for ${problem.since}`;
}

/** The headline. */
function verdict(old, report, rows, problems, history, worker, nowMs) {
  const unknown = (sentence) => ({ level: "unknown", word: "Unknown", sentence, since: "" });
  if (old.length > 0) return unknown(old[0].short);
  if (rows.length === 0) {
    const listed = (report.notes ?? []).length === 0;
    return unknown(listed ? "No leases yet: the first worker creates them." : "No leases. The shards could not be listed, so it is unknown whether there should be any.");
  }
  const worst = problems[0];
  if (worst) {
    const passing = worst.kind === "shards" && worst.level !== "bad";
    return {
      level: worst.level, word: passing ? "Reassigning" : worst.word ?? (worst.level === "bad" || worst.kind === "leader" ? WORD[worst.kind] : "Attention"),
      sentence: sentenceOf(worst), since: sinceWhen(worst, nowMs),
    };
  }
  const open = rows.filter((row) => row.state !== "finished");
  const silent = open.filter((row) => row.level === "unknown").length;
  if (silent > 0) return unknown(`${plural(silent, "shard")} ${silent === 1 ? "was" : "were"} not renewed yet; a worker may still be in time.`);
  if (open.length === 0) return { level: "ok", word: "Healthy", sentence: "Every shard is read to its end.", since: "" };
  const reading = open.filter((row) => row.level === "ok");
  const waiting = open.length - reading.length;
  const all = waiting > 0 ? `${plural(reading.length, "shard")} ${reading.length === 1 ? "is" : "are"} read, ${count(waiting)} ${waiting === 1 ? "waits" : "wait"} for parents`
    : open.length === 1 ? "The only shard is read" : `All ${count(open.length)} shards are read`;
  const blind = reading.filter((row) => row.behindMs === null).length;
  if (blind > 0) {
    return { ...unknown(`${all}, but how far behind is unknown for ${blind === reading.length ? "all of them" : plural(blind, "shard")}.`), since: "The lease row says it from the first commit of a kinetide worker on." };
  }
  const calm = calmSince(history);
  return {
    level: "ok", word: "Healthy", sentence: `${all}.`,
    since: [
      `No record waits longer than ${duration(reading.reduce((most, row) => Math.max(most, row.behindMs), 0) / 1000)}`,
      calm ? `none has waited ${BEHIND_SECONDS / 60} min since ${time(calm, nowMs)}, as worker ${worker} saw its shards` : "",
    ].filter((part) => part !== "").join("; "),
  };
}

/** Since when the asked worker knows that its shards are not behind; null where it does not. */
function calmSince(history) {
  const points = history?.points ?? [];
  let began = null;
  for (let index = points.length - 1; index >= 0; index -= 1) {
    const age = points[index].delivered_age_seconds;
    if (age === null || age === undefined || age > BEHIND_SECONDS) return began;
    began = instant(points[index].time);
  }
  return began;
}

/** For each source that did not answer, or was not asked for long, what of the page is old, and why. */
function banners({ leases, status, history, worker, nowMs, paused }) {
  const asOf = (source) => (source.data === null ? "was never read" : `is from ${time(source.atMs, nowMs)}, ${duration((nowMs - source.atMs) / 1000)} ago`);
  const allOf = (source) => (source.data === null ? "Nothing was read yet." : `All that is shown ${asOf(source)}.`);
  const isOld = (source) => source.error !== null || (source.data !== null && nowMs - source.atMs > OLD_SECONDS * 1000);
  const silent = (source) => isOld(source) && source.error?.answered !== true;
  const who = worker ? `Worker ${worker}` : "The worker";
  if (silent(leases) && silent(status)) {
    if (status.error?.refused) {
      return [{ about: "all", short: `${who} refuses the request.`, title: `${who} refuses the request.`, text: `${status.error.cause}. ${allOf(leases)}`, next: "open this page again, with the token as password" }];
    }
    if (paused) return [{ about: "all", short: "Paused: what is shown is old.", title: "Paused.", text: `${allOf(leases)}`, next: "" }];
    return [{
      about: "all", short: `${who} does not answer.`, title: `${who} does not answer.`,
      text: `${status.error?.cause ?? leases.error?.cause ?? "no response"}. ${allOf(leases)}`,
      next: "check that the worker runs and that you can reach it, or open the console of another worker",
    }];
  }
  const found = [];
  if (isOld(leases)) {
    const from = leases.error?.since ? ` since ${time(instant(leases.error.since), nowMs)}` : "";
    found.push({
      about: "fleet", short: silent(leases) ? `${who} does not say how the fleet is.` : "The lease table does not answer.", title: `The fleet cannot be read${from}.`,
      text: `${leases.error?.cause ?? "no response"}. What is shown of shards, workers and leader ${asOf(leases)}.`,
      next: "remove the cause; until then this page cannot say who reads what", page: "coordinator-trouble",
    });
  }
  if (isOld(status)) {
    found.push({ about: "worker", short: `${who} does not say how it is.`, title: `${who} does not say how it is.`, text: `${status.error?.cause ?? "no response"}. What is shown of it ${asOf(status)}.`, next: "" });
  }
  if (isOld(history)) {
    found.push({ about: "history", short: "", title: "The charts are old.", text: `${history.error?.cause ?? "no response"}. What they show ${asOf(history)}.`, next: "" });
  }
  return found;
}

function figures(report, rows, status, history, nowMs, worker) {
  const open = rows.filter((row) => row.state !== "finished");
  const knownRows = open.filter((row) => row.behindMs !== null);
  const worst = knownRows.reduce((one, other) => (one === null || other.behindMs > one.behindMs ? other : one), null);
  const blind = open.length - knownRows.length;
  const unread = rows.filter((row) => row.stuck || row.state === words(WAITING)).length;
  const isRead = open.filter((row) => row.level !== "unknown").length - unread;
  const active = (report.workers ?? []).filter((one) => one.active).length;
  const leader = report.leader && !report.leader.expired && !report.leader.released ? report.leader : null;
  const newest = rows.reduce((one, other) => (other.deliveredMs !== null && !(one?.deliveredMs >= other.deliveredMs) ? other : one), null);
  const now = latest(history);
  const dead = total(history, "dead_letters");
  const seen = history ? `seen by ${worker} since ${time(instant(history.points?.[0]?.time ?? history.since), nowMs)}` : "";
  return [
    {
      label: "Behind", value: worst ? worst.behind : UNKNOWN, level: worst?.isBehind ? "warn" : worst ? "ok" : "unknown",
      note: worst === null ? "age of the oldest record that is not in the lake" : blind > 0 ? `unknown for ${plural(blind, "shard")}` : `oldest record not in the lake, ${worst.shard}`,
    },
    {
      label: "Shards read", value: rows.length === 0 ? UNKNOWN : `${count(isRead)} of ${count(open.length)}`,
      level: rows.some((row) => row.stuck && row.level === "bad") ? "bad" : unread > 0 ? "warn" : rows.length === 0 ? "unknown" : "ok",
      note: [[rows.filter((row) => row.stuck).length, "stuck"], [rows.filter((row) => row.state === words(WAITING)).length, "waiting for parents"], [rows.length - open.length, "finished"]]
        .filter(([number]) => number > 0).map(([number, what]) => `${count(number)} ${what}`).join(", ") || "none is stuck",
    },
    {
      label: "Workers", value: `${count(active)} active`, level: active === 0 ? "bad" : "ok",
      note: leader ? `${leader.worker} leads` : "no leader",
    },
    {
      label: "Newest delivered", value: newest ? `${duration((nowMs - newest.deliveredMs) / 1000)} old` : UNKNOWN, level: newest ? "none" : "unknown",
      note: typeof now?.records_per_second === "number" ? `${count(now.records_per_second)} records/s, ${bytes(now.bytes_per_second)}/s by ${worker}` : "throughput unknown",
    },
    {
      label: "Dead letters", value: atLeast(dead), level: dead.sum === null ? "unknown" : dead.sum > 0 ? "warn" : "none",
      note: dead.sum > 0 ? `last ${time(dead.lastMs, nowMs)}; ${seen}` : seen || "not seen yet",
    },
  ];
}

function workerRows(report) {
  return (report.workers ?? []).map((one) => ({
    key: one.worker, worker: one.worker, leader: one.leader === true,
    level: one.active ? "ok" : "warn",
    state: one.active ? "active" : one.has_row ? "not active" : "no metrics row",
    leases: one.leases, cpu: percent(one.cpu_percent), cpuPercent: one.cpu_percent,
    throughput: percent(one.throughput_percent), throughputPercent: one.throughput_percent,
    seen: one.seen_seconds_ago === null || one.seen_seconds_ago === undefined ? UNKNOWN : `${duration(one.seen_seconds_ago)} ago`,
    streams: one.streams === null || one.streams === undefined ? "any" : one.streams.map(streamName).join(", "),
  })).sort((one, other) => Number(other.leader) - Number(one.leader) || one.worker.localeCompare(other.worker, "en", { numeric: true }));
}

/** All that is shown. `facts`: the sources `leases`, `status`, `history` as `{data, atMs, error}`, and `nowMs`. */
export function view(facts) {
  const report = facts.leases.data ?? { leases: [], workers: [], leader: null };
  const status = facts.status.data;
  const history = facts.history.data;
  const { nowMs } = facts;
  const worker = status?.worker ?? null;
  const old = banners({ ...facts, worker });
  const fleetKnown = facts.leases.data !== null;
  const find = own(status);
  const nameOf = streamNames(report.leases);
  const unread = unreadFor(status);
  const rows = report.leases.map((lease) => shardRow(lease, find(lease), unread(lease), nameOf(lease.stream), nowMs));
  const found = [
    ...(fleetKnown ? [leaderProblem(report.leader)] : []),
    ...shardProblems(report.leases, rows),
    ...(status ? workerProblems(status) : []),
    behindProblem(rows, history, nowMs),
  ].filter((problem) => problem !== null);
  const order = ["leader", "shards", "worker", "behind"];
  const problems = found.sort((one, other) => LEVELS.indexOf(other.level) - LEVELS.indexOf(one.level)
    || order.indexOf(one.kind) - order.indexOf(other.kind) || (other.seconds ?? 0) - (one.seconds ?? 0));
  const headline = facts.leases.data === null && old.length === 0
    ? { level: "unknown", word: "Looking", sentence: "The lease table is being read; that takes some seconds.", since: "" }
    : verdict(old.filter((one) => one.about !== "history"), report, rows, problems, history, worker, nowMs);
  return {
    application: report.application ?? status?.application ?? "",
    stream: report.stream ?? (status?.streams ?? []).map(streamName).join(", "),
    worker, version: status?.version ?? "", uptime: status ? duration(status.uptime_seconds) : UNKNOWN, delivery: status?.delivery ?? "",
    verdict: headline, banners: old, problems, fleetKnown,
    figures: fleetKnown ? figures(report, rows, status, history, nowMs, worker ?? "this worker") : [],
    shards: rows, severalStreams: rows.some((row) => row.stream !== ""), stuck: rows.filter((row) => row.stuck).length,
    workers: workerRows(report),
    notes: [
      ...(report.odd_rows ?? []).map((row) => `Row not understood: ${row.key}: ${row.problem}`),
      ...(report.notes ?? []).map((note) => `Could not be looked at: ${note}`),
      ...(status?.warnings ?? []).map((warning) => `Settings: ${warning}`),
    ],
    old: { fleet: old.some((one) => one.about === "all" || one.about === "fleet"), history: old.some((one) => one.about === "all" || one.about === "history") },
  };
}

const SORTS = {
  state: (row) => -LEVELS.indexOf(row.level) * 1e12 - (row.forSeconds ?? 0),
  for: (row) => row.forSeconds,
  behind: (row) => row.behindMs,
  delivered: (row) => row.deliveredMs,
  shard: (row) => row.shard,
  stream: (row) => row.stream,
  owner: (row) => row.owner,
  checkpoint: (row) => row.checkpoint,
};
const SORT_KEYS = Object.keys(SORTS);
const collator = new Intl.Collator("en", { numeric: true });

/** The rows that are asked for, in the order that is asked for. What is unknown comes last, both ways. */
export function chosen(rows, { text = "", stuck = false, sort = "state", down = false }) {
  const parts = text.toLowerCase().split(/\s+/).filter((part) => part !== "");
  const shown = rows.filter((row) => (!stuck || row.stuck)
    && parts.every((part) => `${row.shard} ${row.stream} ${row.owner} ${row.nextOwner} ${row.state} ${row.why}`.toLowerCase().includes(part)));
  const of = SORTS[sort] ?? SORTS.state;
  const sign = down ? -1 : 1;
  return shown.sort((one, other) => {
    const [a, b] = [of(one), of(other)];
    const missing = Number(a === null || a === undefined) - Number(b === null || b === undefined);
    if (missing !== 0) return missing;
    const order = typeof a === "number" ? a - b : collator.compare(a ?? "", b ?? "");
    return order !== 0 ? sign * order : collator.compare(one.key, other.key);
  });
}

/** What is chosen, as it stands behind the # of the address, and back. */
export function toHash({ text, stuck, sort, down }) {
  const all = new URLSearchParams();
  if (text) all.set("q", text);
  if (stuck) all.set("stuck", "1");
  if (sort !== "state" || down) all.set("sort", `${down ? "-" : ""}${sort}`);
  return all.toString();
}

export function fromHash(hash) {
  const all = new URLSearchParams(hash.replace(/^#/, ""));
  const sort = all.get("sort") ?? "state";
  const name = sort.replace(/^-/, "");
  return {
    text: (all.get("q") ?? "").slice(0, 200), stuck: all.get("stuck") === "1",
    sort: SORT_KEYS.includes(name) ? name : "state", down: SORT_KEYS.includes(name) && sort.startsWith("-"),
  };
}
