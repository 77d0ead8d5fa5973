// Words for instants, in the reader's own language and time zone.

let language;
let timeZone;
let formats = {};

/** Follow the profile where it says so, the browser where it does not. */
export function setLocale(new_language, new_zone) {
  language = isLanguage(new_language) ? new_language : undefined;
  timeZone = isZone(new_zone) ? new_zone : undefined;
  formats = {};
}

export function isLanguage(tag) {
  try {
    return Boolean(tag) && Intl.getCanonicalLocales(tag).length > 0;
  } catch {
    return false;
  }
}

export function isZone(zone) {
  try {
    return Boolean(zone) && Boolean(new Intl.DateTimeFormat("en", { timeZone: zone }));
  } catch {
    return false;
  }
}

function format(name, options) {
  formats[name] ||= new Intl.DateTimeFormat(language, { timeZone, ...options });
  return formats[name];
}

export function clock(at_ms) {
  return format("clock", { timeStyle: "short" }).format(at_ms);
}

export function full(at_ms) {
  return format("full", { dateStyle: "full", timeStyle: "short" }).format(at_ms);
}

/** A key that is equal for two instants of one day. */
export function dayKey(at_ms) {
  return format("key", { year: "numeric", month: "2-digit", day: "2-digit" }).format(at_ms);
}

export function dayName(at_ms, now_ms = Date.now()) {
  if (dayKey(at_ms) === dayKey(now_ms)) return "Today";
  if (dayKey(at_ms) === dayKey(now_ms - 86_400_000)) return "Yesterday";
  const isNear = Math.abs(now_ms - at_ms) < 300 * 86_400_000;
  return format(isNear ? "day" : "dayYear", {
    weekday: "long", day: "numeric", month: "long", ...(isNear ? {} : { year: "numeric" }),
  }).format(at_ms);
}

/** Short, for the list: the time today, else the day. */
export function brief(at_ms, now_ms = Date.now()) {
  if (!at_ms) return "";
  if (dayKey(at_ms) === dayKey(now_ms)) return clock(at_ms);
  if (now_ms - at_ms < 6 * 86_400_000) return format("weekday", { weekday: "short" }).format(at_ms);
  return format("short", { day: "numeric", month: "short" }).format(at_ms);
}

export function date(at_ms) {
  return format("date", { day: "numeric", month: "short", year: "numeric" }).format(at_ms);
}

export function ago(at_ms, now_ms = Date.now()) {
  const minutes = Math.round((now_ms - at_ms) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 24 * 60) return `${Math.round(minutes / 60)} h ago`;
  return `on ${date(at_ms)}`;
}

export function bytes(count) {
  if (count < 1000) return `${count} B`;
  if (count < 1e6) return `${Math.round(count / 1e3)} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}
