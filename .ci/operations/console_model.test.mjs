// What the console says of a fleet: src/telemetry/console/model.js and chart.js. Run with `node --test`. The answers in tests/fixtures/console
// are those of real workers and of `kinetide leases --json`; console.py checks that they still have the members of today.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const root = new URL("../../", import.meta.url);
const source = (name) => import(new URL(`src/telemetry/console/${name}`, root));
const { BEHIND_SECONDS, NOT_READ_SECONDS, NO_LEADER_SECONDS, chosen, fromHash, toHash, view } = await source("model.js");
const { charts } = await source("chart.js");
const { bytes, count, duration, printable, shortened, time } = await source("format.js");

const NOW = Date.parse("2026-11-29T13:00:00Z");
const fixture = (name) => JSON.parse(readFileSync(new URL(`tests/fixtures/console/${name}.json`, root), "utf8"));
const answered = (data, secondsAgo = 1) => ({ data, atMs: NOW - secondsAgo * 1000, error: null });
const never = { data: null, atMs: null, error: null };
const failed = (of, cause, wasAnswered) => ({ ...of, error: { answered: wasAnswered, cause, since: null } });
const point = (secondsAgo, age, others = {}) => ({
  time: new Date(NOW - secondsAgo * 1000).toISOString(), millis_behind: age === null ? null : age * 500, delivered_age_seconds: age,
  records_per_second: 10, bytes_per_second: 2048, dead_letters: 0, ...others,
});
const history = (...points) => ({ since: "2026-11-29T10:00:00Z", step_seconds: 30, points, streams: [] });

function facts({ leases = fixture("healthy"), status = fixture("status"), past = history(point(30, 2), point(0, 2)), ...others } = {}) {
  return { leases: answered(leases), status: answered(status), history: answered(past), nowMs: NOW, ...others };
}

/** A real fleet with some of its leases changed. */
function changed(change, numbers = [0]) {
  const leases = fixture("healthy");
  for (const number of numbers) Object.assign(leases.leases[number], change);
  return leases;
}
const unread = (reason, seconds, others = {}) =>
  ({ state: "not_read", reason, why: `why ${reason}`, next_step: `do ${reason}`, for_seconds: seconds, owner: null, ...others });

test("a healthy fleet is healthy, with a word and since when", () => {
  const { verdict, problems, stuck, figures } = view(facts());
  assert.deepEqual([verdict.level, verdict.word, verdict.sentence], ["ok", "Healthy", "All 4 shards are read."]);
  assert.match(verdict.since, /^No record waits longer than \d+ s; none has waited 15 min since 12:59:30 UTC, as worker w-1 saw its shards$/);
  assert.deepEqual([problems, stuck], [[], 0]);
  assert.deepEqual(figures.map((figure) => figure.label), ["Behind", "Shards read", "Workers", "Newest delivered", "Dead letters"]);
  assert.deepEqual(figures.slice(1, 3).map((figure) => figure.value), ["4 of 4", "2 active"]);
});

test("the words for a shard that is not read are those of kinetide leases", () => {
  const leases = fixture("no_leader");
  const now = view(facts({ leases }));
  assert.deepEqual([now.verdict.level, now.verdict.word], ["bad", "No leader"]);
  const said = leases.leases[0];
  const problem = now.problems.find((one) => one.kind === "shards");
  const whys = [...new Set(leases.leases.map((lease) => lease.why))];
  assert.deepEqual([problem.reason, problem.why, problem.next], [said.reason.replaceAll("_", " "), whys.join("; "), said.next_step]);
  assert.equal(problem.title, "4 shards are not read");
  assert.match(problem.since, /^≥ \d+ s$/);
  assert.equal(now.figures[1].value, "0 of 4");
  assert.equal(now.problems[0].page, "no-leader");
});

test("the one stuck shard is named in the headline, with its reason and since when", () => {
  const { verdict, problems, shards } = view(facts({ leases: changed(unread("no_room", 794)) }));
  assert.deepEqual([verdict.level, verdict.word], ["bad", "Stuck"]);
  assert.equal(verdict.sentence, "shardId-000000000000 is not read: why no_room.");
  assert.equal(verdict.since, "Since 12:46:46 UTC, for 13m 14s");
  assert.deepEqual([problems[0].page, problems[0].next], ["no-room", "do no_room"]);
  assert.deepEqual([shards[0].state, shards[0].owner, shards[0].stuck], ["no room", "nobody", true]);
});

test("what the fleet mends by itself is no alarm, until it takes too long", () => {
  for (const reason of ["unowned", "not_picked_up", "owner_silent", "handing_off", "no_lease"]) {
    const at = (seconds) => view(facts({ leases: changed(unread(reason, seconds)) })).verdict;
    assert.deepEqual([at(NOT_READ_SECONDS).level, at(NOT_READ_SECONDS).word], ["warn", "Reassigning"], reason);
    assert.deepEqual([at(NOT_READ_SECONDS + 1).level, at(NOT_READ_SECONDS + 1).word], ["bad", "Stuck"], reason);
  }
  for (const reason of ["no_leader", "no_worker", "no_room", "hand_off_stuck", "stream_not_read", "row_not_understood", "other_stream", "a_new_one"]) {
    assert.equal(view(facts({ leases: changed(unread(reason, 0)) })).verdict.level, "bad", reason);
  }
  const waits = view(facts({ leases: changed(unread("waiting_for_parents", 9000)) }));
  assert.deepEqual([waits.verdict.level, waits.verdict.sentence, waits.stuck, waits.figures[1].value], ["ok", "3 shards are read, 1 waits for parents.", 0, "3 of 4"]);
});

test("a leader that is asked has watched for longer than the page", () => {
  const status = fixture("status");
  status.fleet.not_read = [{ stream: null, shard: "shardId-000000000000", reason: "owner_silent", for_ms: 3600e3, at_least: false }];
  const { verdict, shards } = view(facts({ status, leases: changed(unread("owner_silent", 4, { at_least: true })) }));
  assert.deepEqual([verdict.level, shards[0].since], ["bad", "1h 00m"]);
  status.fleet.not_read[0].reason = "unowned";
  assert.equal(view(facts({ status, leases: changed(unread("owner_silent", 4, { at_least: true })) })).shards[0].since, "≥ 4 s");
});

test("every reason of the documents has a runbook that exists", () => {
  const reasons = [...readFileSync(new URL("docs/LEASES.md", root), "utf8").split("## Shards and leases")[0].matchAll(/^\| `([a-z_]+)` \|/gm)].map((found) => found[1]).filter((word) => word !== "reason");
  assert.equal(reasons.length, 16);
  const pages = reasons.map((reason) => view(facts({ leases: changed(unread(reason, 1e6)) })).problems[0]?.page);
  const stalls = ["halted", "throttled", "lake", "firehose", "lease_table", "children"].map((reason) => stalled(reason).problems[0].page);
  assert.ok(new Set(stalls).size === 6);
  for (const page of [...pages, ...stalls].filter((page) => page !== undefined)) readFileSync(new URL(`docs/runbooks/${page}.md`, root));
  assert.deepEqual(reasons.filter((_, index) => pages[index] === undefined), ["waiting_for_parents"]);
});

function stalled(reason) {
  const status = fixture("status");
  Object.assign(status.shards[1], { state: "stalled", reason, stalled_for_ms: 65000, last_error: "PutObject: AccessDenied" });
  return view(facts({ status }));
}

test("a shard that is read and makes no progress is stuck, with the worker's own words", () => {
  const { verdict, problems, shards } = stalled("lake");
  assert.equal(verdict.sentence, "shardId-000000000003 makes no progress: PutObject: AccessDenied.");
  assert.deepEqual([verdict.word, problems[0].reason, problems[0].since, problems[0].page], ["Stuck", "lake", "1m 05s", "delivery-failing"]);
  assert.equal(shards[3].state, "stalled: lake");
  // Another worker has it now: what this one knew of it does not count.
  const status = fixture("status");
  Object.assign(status.shards[1], { state: "stalled", reason: "lake", stalled_for_ms: 65000 });
  assert.equal(view(facts({ status, leases: changed({ owner: "w-2", delivered_age_ms: 900 }, [3]) })).verdict.level, "ok");
});

test("catching up, falling behind, and which it is", () => {
  const late = changed({ delivered_age_ms: 2400e3, owner: "w-2" }, [0, 1]);
  const run = (from, to) => view(facts({ leases: late, past: history(point(900, 10), point(570, from), point(300, (from + to) / 2), point(0, to)) }));
  const { verdict, problems, figures } = run(3000, 2400);
  assert.deepEqual([verdict.level, verdict.word, verdict.sentence], ["warn", "Catching up", "2 shards have records older than 15 min that are not in the lake."]);
  assert.equal(verdict.since, "Since 12:50:30 UTC, for 9m 30s");
  assert.deepEqual([figures[0].value, figures[0].level, problems[0].page], ["40m 00s", "warn", "reader-behind"]);
  assert.equal(run(2000, 2400).verdict.word, "Falling behind");
  assert.equal(view(facts({ leases: late, past: history() })).verdict.word, "Behind");
  assert.equal(view(facts({ leases: late, past: history() })).verdict.since, "Since an unknown time");
});

test("unknown is never 0, and never healthy", () => {
  const blind = changed({ delivered_age_ms: null, delivered_until: null, owner: "w-2" }, [0, 1, 2, 3]);
  const { figures, shards, verdict } = view(facts({ leases: blind, past: history(point(30, null), point(0, null, { records_per_second: null, dead_letters: null })) }));
  assert.deepEqual(figures.map((figure) => figure.value), ["unknown", "4 of 4", "2 active", "unknown", "0"].map((value, index) => (index === 4 ? "none seen" : value)));
  assert.deepEqual([shards[0].behind, shards[0].delivered], ["unknown", "unknown"]);
  assert.deepEqual([verdict.level, verdict.sentence], ["unknown", "All 4 shards are read, but how far behind is unknown for all of them."]);
  assert.equal(view(facts({ leases: changed({ delivered_age_ms: null, owner: "w-2" }) })).verdict.sentence, "All 4 shards are read, but how far behind is unknown for 1 shard.");
  assert.equal(view(facts({ leases: changed({ state: "unheard" }) })).verdict.word, "Unknown");
  const empty = { ...fixture("healthy"), leases: [] };
  assert.equal(view(facts({ leases: empty })).verdict.word, "Unknown");
  assert.match(view(facts({ leases: { ...empty, notes: ["shards: AccessDenied"] } })).verdict.sentence, /unknown whether there should be any/);
  const nothing = view({ leases: never, status: never, history: never, nowMs: NOW });
  assert.deepEqual([nothing.verdict.level, nothing.verdict.word, nothing.figures], ["unknown", "Looking", []]);
});

test("old data are never shown as current", () => {
  const good = facts();
  const table = view({ ...good, leases: failed(good.leases, "lease table app: no such table", true) });
  assert.deepEqual([table.verdict.word, table.verdict.sentence], ["Unknown", "The lease table does not answer."]);
  assert.match(table.banners[0].text, /^lease table app: no such table\. .* is from 12:59:59 UTC, 1 s ago\.$/);
  assert.deepEqual(table.old, { fleet: true, history: false });
  const gone = view({ ...good, leases: failed(good.leases, "x", false), status: failed(good.status, "it cannot be reached", false), history: failed(good.history, "x", false) });
  assert.deepEqual([gone.banners.length, gone.verdict.sentence], [1, "Worker w-1 does not answer."]);
  assert.deepEqual(gone.old, { fleet: true, history: true });
  const refused = { data: null, atMs: null, error: { answered: false, refused: true, cause: "wrong or missing token", since: null } };
  const banner = view({ leases: refused, status: refused, history: refused, nowMs: NOW }).banners[0];
  assert.deepEqual([banner.title, banner.text], ["The worker refuses the request.", "wrong or missing token. Nothing was read yet."]);
  const silent = view({ ...good, leases: answered(fixture("healthy"), 21), status: answered(fixture("status"), 21) });
  assert.equal(silent.verdict.level, "unknown", "also when no request has failed yet");
  assert.equal(view({ ...good, status: failed(good.status, "500", true) }).verdict.level, "unknown");
  const chartsOnly = view({ ...good, history: failed(good.history, "500", true) });
  assert.deepEqual([chartsOnly.verdict.level, chartsOnly.banners.length], ["ok", 1]);
  assert.match(view({ ...good, paused: true, leases: answered(fixture("healthy"), 90), status: answered(fixture("status"), 90) }).banners[0].title, /^Paused/);
});

test("what the worker says of itself", () => {
  const say = (change) => view(facts({ status: { ...fixture("status"), ...change } }));
  const trouble = { call: "UpdateItem", purpose: "renewing leases", stream: null, cause: "AccessDenied", since: "", for_ms: 61000, failures: 3, lasting: true };
  assert.deepEqual([say({ troubles: [trouble] }).verdict.word, say({ troubles: [trouble] }).verdict.sentence], ["Trouble", "Worker w-1: UpdateItem fails."]);
  assert.equal(say({ troubles: [{ ...trouble, lasting: false }] }).verdict.level, "warn");
  assert.equal(say({ draining: true, not_ready: ["draining"] }).problems[0].reason, "draining");
  assert.equal(say({ not_ready: ["the lease table is gone: nothing can be read"] }).problems[0].page, "lease-table-lost");
  assert.equal(say({ healthy: false }).verdict.level, "bad");
  assert.deepEqual(say({ warnings: ["odd"] }).notes, ["Settings: odd"]);
});

test("no leader is told even while every shard is read", () => {
  const led = (leader) => view(facts({ leases: { ...fixture("healthy"), leader } })).verdict;
  const leader = fixture("healthy").leader;
  assert.deepEqual([led(null).word, led(null).level], ["No leader", "bad"]);
  assert.equal(led({ ...leader, expired: true, unmoved_seconds: 90 }).level, "bad");
  assert.deepEqual([led({ ...leader, expired: true, unmoved_seconds: 9 }).level, led({ ...leader, expired: true, unmoved_seconds: 9, at_least: true }).level], ["warn", "bad"]);
  assert.equal(led({ ...leader, released: true, unmoved_seconds: 3 }).level, "warn");
  assert.equal(led({ ...leader, released: true, unmoved_seconds: NO_LEADER_SECONDS }).level, "bad");
});

test("the limits are those of the alerts", () => {
  const rules = readFileSync(new URL("dashboards/prometheus/alerts.yml", root), "utf8");
  for (const [alert, limit] of [["KinetideDeliveredAgeHigh", BEHIND_SECONDS], ["KinetideShardsNotRead", NOT_READ_SECONDS], ["KinetideLeaderOverdue", NO_LEADER_SECONDS]]) {
    const rule = rules.split(`alert: ${alert}\n`)[1].split("- alert:")[0];
    assert.match(rule, new RegExp(`> ${limit}\\b`), alert);
  }
});

test("filter, sort and the address", () => {
  const leases = fixture("healthy");
  leases.leases = Array.from({ length: 1000 }, (_, number) => ({
    ...leases.leases[0], lease: `shardId-${number}`, shard: `shardId-${number}`, owner: `w-${number % 7}`, delivered_age_ms: number === 3 ? null : number,
    ...(number % 100 === 42 ? unread("no_room", number) : {}),
  }));
  const { shards, stuck } = view(facts({ leases, status: { ...fixture("status"), shards: [] } }));
  const keys = (choice) => chosen(shards, choice).map((row) => row.key);
  assert.deepEqual([stuck, keys({ stuck: true }).length], [10, 10]);
  assert.equal(keys({})[0], "shardId-942", "the longest trouble first");
  assert.deepEqual(keys({ text: "W-3 shardid-10" }).slice(0, 2), ["shardId-10", "shardId-101"]);
  assert.deepEqual(keys({ text: "no room" }).length, 10);
  assert.deepEqual(keys({ sort: "shard" }).slice(8, 11), ["shardId-8", "shardId-9", "shardId-10"]);
  for (const down of [false, true]) assert.equal(keys({ sort: "behind", down }).at(-1), "shardId-3", "unknown comes last");
  assert.equal(keys({ sort: "behind", down: true })[0], "shardId-999");
  const choice = { text: "w-3 & <b>", stuck: true, sort: "behind", down: true };
  assert.deepEqual(fromHash(`#${toHash(choice)}`), choice);
  assert.equal(toHash({ text: "", stuck: false, sort: "state", down: false }), "");
  assert.deepEqual(fromHash("#sort=-constructor&q=%"), { text: "%", stuck: false, sort: "state", down: false });
});

test("shards of several streams are told apart", () => {
  const leases = changed({ stream: "111122223333:orders:1751328000", lease: "111122223333:orders:1751328000:shardId-000000000002" }, [2]);
  const status = fixture("status");
  status.shards[0].stream = "arn:aws:kinesis:us-east-1:111122223333:stream/trades";
  Object.assign(status.shards[0], { state: "stalled", reason: "lake", stalled_for_ms: 9000 });
  const { shards, stuck } = view(facts({ leases, status }));
  assert.deepEqual([shards[2].stream, shards[2].state, stuck], ["orders", "read", 0]);
  leases.leases[3].stream = "444455556666:orders:1751328000";
  Object.assign(status.shards[1], { stream: "arn:aws:kinesis:us-east-1:444455556666:stream/orders", state: "stalled", reason: "lake", stalled_for_ms: 9000 });
  const alike = view(facts({ leases, status }));
  assert.deepEqual(alike.shards.slice(2, 4).map((row) => [row.stream, row.state]), [["111122223333:orders", "read"], ["444455556666:orders", "stalled: lake"]]);
});

test("charts have gaps where nothing is known, and say what they show", () => {
  const past = history(point(300, 5), point(270, 7), point(240, null), point(210, null), point(180, null), point(150, 9), point(0, 1, { dead_letters: 4 }));
  const [lag, throughput, dead] = charts(past, NOW, "w-1");
  assert.equal(lag.lines[0].match(/M/g).length, 3, "a gap for what is unknown, and one for what is missing");
  assert.equal(lag.gaps.length, 2);
  assert.equal(lag.summary, "Lag since 12:55:00 UTC, as worker w-1 saw it: age of the oldest record not in the lake now 1 s, at most 9 s.");
  assert.deepEqual([throughput.value, throughput.more], ["10 records/s", "2 KiB/s"]);
  assert.deepEqual([dead.value, dead.bars.length], ["4", 1]);
  assert.deepEqual([lag.at(0).text, lag.at(0.75)], ["12:55:00 UTC: not in the lake 5 s, reader 2 s", null]);
  for (const chart of charts(history(), NOW, "w-1")) assert.ok(chart.empty && !JSON.stringify(chart).includes("NaN"), chart.id);
  assert.deepEqual(charts(null, NOW, "w-1"), []);
});

test("numbers and times as words", () => {
  assert.deepEqual([4.9, 133, 11100, 352800, -1].map(duration), ["4 s", "2m 13s", "3h 05m", "4d 02h", "0 s"]);
  assert.deepEqual([null, undefined, NaN].map(duration), ["unknown", "unknown", "unknown"]);
  assert.deepEqual([0, 0.42, 1234, 56100, 7.2e6, null].map(count), ["0", "0.4", "1,234", "56.1 k", "7.2 M", "unknown"]);
  assert.deepEqual([0, 1536, 3 * 2 ** 30, undefined].map(bytes), ["0 B", "1.5 KiB", "3 GiB", "unknown"]);
  assert.deepEqual([time(NOW, NOW), time(NOW - 86400e3, NOW), time(null, NOW), time(1e300, NOW)], ["13:00:00 UTC", "2026-11-28 13:00:00 UTC", "unknown", "unknown"]);
  assert.equal(shortened("49660017957331581390000", 9), "4966…0000");
  assert.equal(printable("a\u202eb\u0000c é"), "a\\u{202e}b\\u{0}c é");
});
