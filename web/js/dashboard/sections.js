// The tables of the dashboard. Each shows one part of what the server tells.

import { button, h } from "../dom.js";
import { sparkline } from "./sparkline.js";
import { pill, tableSection } from "./table.js";
import { at, count, interval, latency, percent, points, rate, span } from "./words.js";

const BREAKERS = { closed: "good", half_open: "warn", open: "bad" };
const VERDICTS = { better: "good", worse: "bad" };

function withApp(isApp, columns) {
  const app = { title: "App", of: (line) => line.app_id };
  return isApp ? columns : [columns[0], app, ...columns.slice(1)];
}

export function queueSection(isApp) {
  return tableSection({
    id: "queues",
    title: "Queues",
    hint: "Deliveries that are not concluded, on all nodes. Due: they wait for nothing but their turn.",
    empty: "Nothing waits to be delivered.",
    keyOf: (line) => `${line.app_id} ${line.channel} ${line.priority}`,
    columns: withApp(isApp, [
      { title: "Channel", of: (line) => line.channel },
      { title: "Priority", of: (line) => line.priority },
      { title: "Open", isNumber: true, of: (line) => count(line.open_count) },
      { title: "Due", isNumber: true, of: (line) => count(line.due_count) },
      { title: "Oldest", unit: "age", isNumber: true, of: (line) => span(line.oldest_age_s) },
      {
        title: "Overdue", isNumber: true,
        of: (line) => (line.overdue_count ? pill(count(line.overdue_count), "bad") : "0"),
      },
    ]),
  });
}

export function channelSection(isApp) {
  const columns = [
    { title: "Channel", of: (line) => line.channel },
    { title: "Delivered", unit: "per s", isNumber: true, of: (line) => rate(line.accepted_per_s) },
    { title: "Last 5 min", of: (line) => sparkline(line.series, `Delivered by ${line.channel}`) },
    { title: "Refused", unit: "per s", isNumber: true, of: (line) => rate(line.refused_per_s) },
    { title: "Unknown", unit: "per s", isNumber: true, of: (line) => rate(line.unknown_per_s) },
  ];
  if (!isApp) {
    columns.push(
      { title: "Queued", unit: "in memory", isNumber: true, of: (line) => count(line.queued_count) },
      { title: "Under way", unit: "requests", isNumber: true, of: (line) => count(line.in_hand_count) },
    );
  }
  return tableSection({
    id: "channels",
    title: "Rates",
    hint: "Over the last minute, by channel, of all nodes together.",
    empty: "Nothing was sent in the last minutes.",
    keyOf: (line) => line.channel,
    columns,
  });
}

/** What each node of a cluster has done; those that did not answer, too. */
export function nodeSection(isApp) {
  const known = (of) => (line) => (line.is_missing ? "–" : of(line));
  const columns = [
    { title: "Node", of: (line) => line.node_id },
    { title: "State", of: (line) => (line.is_missing ? pill("no answer", "bad") : pill("answers", "good")) },
    { title: "Notified", unit: "per s", isNumber: true, of: known((line) => rate(line.notified_per_s)) },
    { title: "Delivered", unit: "per s", isNumber: true, of: known((line) => rate(line.accepted_per_s)) },
    { title: "Breakers open", isNumber: true, of: known((line) => (line.open_count ? pill(count(line.open_count), "bad") : "0")) },
  ];
  if (!isApp) {
    columns.push(
      { title: "Queued", unit: "in memory", isNumber: true, of: known((line) => count(line.queued_count)) },
      { title: "Under way", unit: "requests", isNumber: true, of: known((line) => count(line.in_hand_count)) },
    );
  }
  return tableSection({
    id: "nodes",
    title: "Nodes",
    hint: "The share of each. The store’s figures, such as queues and success, are of all of them in any case.",
    empty: "There is one node.",
    keyOf: (line) => line.node_id,
    columns,
  });
}

/** `where`: the nodes on which it is not closed, where there are several nodes. */
function breaker(line) {
  const words = line.breaker.replace("_", "-");
  return h("span", { class: "row-actions" },
    pill(words, BREAKERS[line.breaker] || ""),
    line.where ? h("span", { class: "soft", text: `on ${line.where}` }) : null,
    line.pause_s > 0 ? pill(`waits ${span(line.pause_s)}`, "warn") : null,
    line.pace < 1 ? pill(`pace ${percent(line.pace)}`, "warn") : null);
}

/** `setPaused(line, isPaused)` is there for apps only: operators do not act for them. */
export function providerSection(isApp, setPaused) {
  const columns = withApp(isApp, [
    { title: "Provider", of: (line) => line.provider_id },
    { title: "Channel", of: (line) => (line.kind && line.kind !== line.channel ? `${line.channel} (${line.kind})` : line.channel) },
    { title: "Breaker", of: breaker },
    { title: "Success", isNumber: true, of: (line) => percent(line.success) },
    { title: "Accepted", isNumber: true, of: (line) => count(line.accepted_count) },
    { title: "Refused", isNumber: true, of: (line) => count(line.refused_count) },
    { title: "Dead", isNumber: true, of: (line) => count(line.dead_count) },
    { title: "Unknown", isNumber: true, of: (line) => count(line.unknown_count) },
    { title: "Doubled", isNumber: true, of: (line) => count(line.doubled_count) },
    { title: "p50", isNumber: true, of: (line) => latency(line.p50_ms) },
    { title: "p99", isNumber: true, of: (line) => latency(line.p99_ms) },
  ]);
  if (!isApp) {
    columns.push({ title: "Use", of: (line) => (line.is_paused ? pill("paused", "warn") : "in use") });
  } else {
    columns.push({
      title: "Use",
      of: (line) => {
        if (!line.kind) return h("span", { class: "soft", text: line.provider_id === "own" ? "the server’s own" : "removed" });
        const verb = line.is_paused ? "Resume" : "Pause";
        return h("span", { class: "row-actions" },
          line.is_paused ? pill("paused", "warn") : null,
          button(`${verb} ${line.provider_id}`, () => setPaused(line, !line.is_paused), { text: verb, kind: "small", "data-focus": "use" }));
      },
    });
  }
  return tableSection({
    id: "providers",
    title: "Providers in the last hour",
    hint: "Latency runs from the request to the provider’s yes. Unknown: nobody knows whether it came.",
    empty: "No provider is set up.",
    keyOf: (line) => `${line.app_id} ${line.channel} ${line.provider_id}`,
    columns,
  });
}

export function deadSection(isApp, redrive) {
  const columns = withApp(isApp, [
    { title: "Code", of: (line) => h("code", { text: line.code || "(none)" }) },
    { title: "Channel", of: (line) => line.channel },
    { title: "Provider", of: (line) => line.provider_id || "–" },
    { title: "Count", isNumber: true, of: (line) => count(line.count) },
    { title: "First", of: (line) => at(line.oldest_at_ms) },
    { title: "Last", of: (line) => at(line.newest_at_ms) },
  ]);
  if (isApp) {
    columns.push({
      title: "Try again",
      of: (line) => button(`Redrive ${line.code} of ${line.channel}`, () => redrive(line), { text: "Redrive", kind: "small", "data-focus": "redrive" }),
    });
  }
  return tableSection({
    id: "dead",
    title: "Dead letters",
    hint: isApp
      ? "Given up. Mend the cause first; redriving sends up to 1,000 at a time as if they were new."
      : "Given up. The app’s developers can redrive them from their dashboard.",
    empty: "Nothing was given up.",
    keyOf: (line) => `${line.app_id} ${line.channel} ${line.provider_id} ${line.code}`,
    columns,
  });
}

export function alertSection(isApp) {
  return tableSection({
    id: "alerts",
    title: "Alerts to be told",
    hint: isApp
      ? "What your webhook or mail has yet to take. Each is tried for a day."
      : "What apps’ webhooks or mails have yet to take. Each is tried for a day.",
    empty: "Nothing waits to be told.",
    keyOf: (line) => `${line.app_id} ${line.kind} ${line.at_ms} ${line.about}`,
    columns: withApp(isApp, [
      { title: "Kind", of: (line) => h("code", { text: line.kind }) },
      { title: "About", of: (line) => line.about || "–" },
      { title: "Count", isNumber: true, of: (line) => count(line.count) },
      { title: "Since", of: (line) => at(line.at_ms) },
      { title: "Last try", of: (line) => line.reason || "none yet" },
    ]),
  });
}

export function requestSection(isApp) {
  return tableSection({
    id: "requests",
    title: "Larger requests",
    hint: "To groups and to many users, and recurring ones, that run or wait for their time.",
    empty: "None runs or waits.",
    keyOf: (line) => line.request_id,
    columns: withApp(isApp, [
      { title: "Request", of: (line) => h("code", { text: line.request_id }) },
      { title: "Type", of: (line) => line.type },
      { title: "To", of: (line) => (line.group === "*" ? "everybody" : line.group || "a list of users") },
      { title: "State", of: (line) => pill(line.state, line.state === "running" ? "good" : "") },
      { title: "Progress", unit: "users", of: progress },
      { title: "Next run", of: (line) => (line.next_at_ms ? at(line.next_at_ms) : "–") },
      { title: "Recurs", of: (line) => (line.cron ? h("code", { text: line.cron }) : "no") },
    ]),
  });
}

function progress(line) {
  if (line.reached_count < 0) return `${count(line.user_count)} in all runs`;
  const reached = Math.min(line.reached_count, line.audience_count);
  const words = `${count(reached)} of about ${count(line.audience_count)}`;
  return h("span", { class: "progress" },
    h("progress", { max: Math.max(1, line.audience_count), value: reached, "aria-label": words }), words);
}

/** One line for each variant of each experiment. */
export function experimentSection(isApp) {
  return tableSection({
    id: "experiments",
    title: "Experiments",
    hint: "Of users who were sent the variant’s own text: rates with 95 % intervals, and differences with intervals that hold however often one looks.",
    empty: "No experiment is set up.",
    keyOf: (line) => `${line.app_id} ${line.experiment} ${line.variant}`,
    columns: withApp(isApp, [
      { title: "Experiment", of: (line) => line.experiment },
      { title: "Variant", of: (line) => line.variant },
      { title: "Drawn", unit: "users", isNumber: true, of: (line) => count(line.drawn?.users || 0) },
      { title: "Exposed", unit: "users", isNumber: true, of: (line) => count(line.exposures) },
      { title: "Rate", isNumber: true, of: (line) => (line.exposures ? percent(line.rate) : "–") },
      { title: "Interval", of: (line) => (line.exposures ? interval(line.low, line.high) : "–") },
      { title: "Against the control", of: (line) => (line.difference && line.exposures ? points(line.difference) : "–") },
      { title: "Verdict", of: (line) => (line.verdict ? pill(line.verdict, VERDICTS[line.verdict] || "") : "–") },
    ]),
  });
}

/** Lines of `experimentSection`, and what is to be said below them. */
export function experimentLines(experiments) {
  const lines = [];
  const notes = [];
  for (const { app_id, name, results, code } of experiments) {
    if (!results) {
      notes.push(`${name}: no results now (${code}).`);
      continue;
    }
    const experiment = `${name}, ${results.metric}`;
    for (const variant of [...results.variants, ...(results.holdout ? [results.holdout] : [])]) {
      const isControl = variant.variant === results.control;
      const verdict = isControl ? "control" : variant.difference?.verdict || "";
      lines.push({ app_id, experiment, ...variant, verdict });
    }
    if (results.sample_ratio.is_mismatch) notes.push(`${name}: the variants’ sizes do not fit their weights. Trust no result.`);
    if (results.winner) notes.push(`${name}: it is safe to stop with ${results.winner}.`);
  }
  return { lines, note: notes.join(" ") };
}
