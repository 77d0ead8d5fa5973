// Figures and instants in words: plain functions. A dash is what is not known.

const whole = new Intl.NumberFormat("en");

/** A count; `isAtLeast` where only a part was looked at. */
export function count(value, isAtLeast = false) {
  return `${isAtLeast && value > 0 ? "≥ " : ""}${whole.format(value)}`;
}

/** Something per second, with as many digits as say something. */
export function rate(value) {
  if (!value) return "0";
  if (value < 0.05) return "< 0.1";
  return value < 10 ? value.toFixed(1) : whole.format(Math.round(value));
}

export function percent(share) {
  if (share === null || share === undefined) return "–";
  const shown = (share * 100).toFixed(1);
  // Never round a failure away.
  if (shown === "100.0" && share < 1) return "< 100 %";
  return `${shown.replace(/\.0$/, "")} %`;
}

/** A span of time, in the largest unit that fits. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

export function latency(ms) {
  return ms === null || ms === undefined ? "–" : span(ms / 1000);
}

const clocks = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const days = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

/** An instant: the time of day for today's, else with its date. */
export function at(atMs, nowMs = Date.now()) {
  if (!atMs) return "–";
  const isToday = new Date(atMs).toDateString() === new Date(nowMs).toDateString();
  return (isToday ? clocks : days).format(atMs);
}

/** An instant to the millisecond, in UTC, as logs have it. */
export function precise(atMs) {
  return new Date(atMs).toISOString().replace("T", " ").replace("Z", "");
}

/** A share with its interval, in percent. */
export function interval(low, high) {
  return `${(low * 100).toFixed(1)} to ${(high * 100).toFixed(1)} %`;
}

/** A difference of rates with its interval, in percentage points. */
export function points(difference) {
  const sign = difference.estimate > 0 ? "+" : "";
  const low = (difference.always_low * 100).toFixed(1);
  const high = (difference.always_high * 100).toFixed(1);
  return `${sign}${(difference.estimate * 100).toFixed(1)} points (${low} to ${high})`;
}
