// Numbers and times as words. Pure. What is unknown is "unknown", never 0.

export const UNKNOWN = "unknown";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** Like `4 s`, `2m 13s`, `3h 05m` or `4d 02h`, as `kinetide leases` has it. */
export function duration(seconds) {
  if (!known(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h ${two(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d ${two(Math.floor(whole / 3600) % 24)}h`;
}

/** Time of the day, with the date where that is another one than today's. */
export function time(ms, nowMs) {
  if (!known(ms) || Number.isNaN(new Date(ms).getTime())) return UNKNOWN;
  const iso = (at) => new Date(at).toISOString();
  const sameDay = known(nowMs) && iso(ms).slice(0, 10) === iso(nowMs).slice(0, 10);
  return `${sameDay ? "" : `${iso(ms).slice(0, 10)} `}${iso(ms).slice(11, 19)} UTC`;
}

/** Milliseconds since the epoch of a time as JSON has it. */
export function instant(text) {
  const ms = typeof text === "string" ? Date.parse(text) : NaN;
  return Number.isNaN(ms) ? null : ms;
}

/** A count or a rate, short: 0.4, 17, 1,234, 56.1 k, 7.2 M. */
export function count(value) {
  if (!known(value)) return UNKNOWN;
  if (value !== 0 && Math.abs(value) < 10 && !Number.isInteger(value)) return value.toFixed(1);
  if (Math.abs(value) < 10000) return Math.round(value).toLocaleString("en-US");
  for (const [size, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))} ${name}`;
  }
  return UNKNOWN;
}

export function bytes(value) {
  if (!known(value)) return UNKNOWN;
  for (const [size, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (value >= size) return `${Number((value / size).toPrecision(3))} ${name}`;
  }
  return `${Math.round(value)} B`;
}

export function percent(value) {
  return known(value) ? `${Math.round(value)} %` : UNKNOWN;
}

/** Cut in the middle: ids differ at both ends. */
export function shortened(text, width) {
  const signs = [...text];
  if (signs.length <= width) return text;
  const tail = Math.floor((width - 1) / 2);
  return `${signs.slice(0, width - 1 - tail).join("")}…${signs.slice(signs.length - tail).join("")}`;
}

/** Without characters that are not seen or change the direction of writing, as `kinetide leases` shows text. */
export function printable(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
}

/** "1 shard", "2 shards". */
export function plural(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? one : many}`;
}
