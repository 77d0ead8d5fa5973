// The dashboard as it is shown: tiles on top, tables below. `show` takes what the server tells.

import { button, fill, h } from "../dom.js";
import { explainSection } from "./explain.js";
import { alertSection, channelSection, deadSection, experimentLines, experimentSection, nodeSection, providerSection, queueSection, requestSection } from "./sections.js";
import { sparkline } from "./sparkline.js";
import { tile } from "./table.js";
import { at, count, rate, span } from "./words.js";

const PRIORITIES = ["high", "medium", "low"];

/**
 * Build it in `root`. `does`: {api, refresh, toggle, logOut, setPaused, redrive}. Returns {show(dashboard),
 * fail(message), isPaused(bool)}.
 */
export function makeBoard(root, { isApp, does }) {
  const tiles = {
    notified: tile("Notified per s"),
    delivered: tile("Delivered per s"),
    open: tile("Waiting"),
    overdue: tile("Overdue"),
    held: tile("Held back"),
    dead: tile("Dead letters"),
    unknown: tile("Unknown, last hour"),
  };
  const sections = {
    queues: queueSection(isApp),
    providers: providerSection(isApp, does.setPaused),
    dead: deadSection(isApp, does.redrive),
    alerts: alertSection(isApp),
    channels: channelSection(isApp),
    nodes: nodeSection(isApp),
    requests: requestSection(isApp),
    experiments: experimentSection(isApp),
  };
  const who = h("p", { class: "who" });
  const updated = h("p", { class: "updated" });
  const toggle = h("button", { type: "button", class: "button", onclick: does.toggle });
  const problem = h("div", { class: "problem", role: "alert" });
  const main = h(
    "main", { class: "board" },
    h("header", { class: "board-head" },
      h("div", {}, h("h1", { text: "Notifications" }), who),
      h("div", { class: "board-actions" }, updated, toggle,
        button(isApp ? "Log out" : "Change log-in", does.logOut, {}))),
    problem,
    h("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.node)),
    Object.values(sections).map((section) => section.node),
    explainSection(does.api),
  );
  fill(root, main);

  const atLeast = "Only the part that is due longest was looked at: these are lower bounds.";
  return {
    isPaused(isPaused) {
      toggle.textContent = isPaused ? "Resume updates" : "Pause updates";
    },

    fail(message) {
      main.classList.add("stale");
      fill(problem, h("p", { text: message }), button("Try again", does.refresh, { kind: "small" }));
    },

    show(told) {
      main.classList.remove("stale");
      fill(problem);
      who.textContent = isApp ? `App ${told.app_id}` : "All apps of this server";
      updated.textContent = `As of ${at(told.at_ms)}${covered(told.nodes)}`;
      showTiles(tiles, told, isApp);
      sections.queues.show(told.queues.lines, told.queues.is_complete ? "" : atLeast);
      const where = (line) => (told.nodes.length > 1 ? Object.keys(line.breakers).sort().join(", ") : "");
      const providers = told.providers.lines.map((line) => ({ ...line, where: where(line) }));
      sections.providers.show(providers, told.providers.is_complete ? "" : "So many that these are figures of a sample, spread evenly over the hour.");
      sections.dead.show(told.dead.lines, told.dead.is_complete ? "" : "Only the newest 5,000 were looked at: there are more.");
      sections.channels.show(told.rates.channels.filter((line) => !isApp || line.series.some(Boolean)));
      const missing = told.nodes.filter((line) => line.is_missing).map((line) => line.node_id);
      sections.nodes.node.hidden = told.nodes.length < 2;
      sections.nodes.show(told.nodes, missing.length ? `No answer from ${missing.join(", ")}: what is known there alone is in no figure here.` : "");
      sections.requests.show(told.requests);
      sections.alerts.show(told.alerts);
      const experiments = experimentLines(told.experiments);
      sections.experiments.show(experiments.lines, experiments.note);
    },
  };
}

/** Which nodes the figures are of, where there are several. */
function covered(nodes) {
  if (nodes.length < 2) return "";
  const answered = nodes.filter((line) => !line.is_missing).length;
  return answered === nodes.length ? `, of ${nodes.length} nodes` : `, of ${answered} of ${nodes.length} nodes`;
}

function showTiles(tiles, told, isApp) {
  const { rates, queues, held } = told;
  tiles.notified.show(rate(rates.notified_per_s), sparkline(rates.notified_series, "Notified"));
  tiles.delivered.show(rate(rates.accepted_per_s), sparkline(rates.accepted_series, "Delivered"));

  const sum = (lines, name) => lines.reduce((total, line) => total + line[name], 0);
  const seen = sum(queues.lines, "open_count");
  const open = PRIORITIES.map((name) => queues.open_totals[name] || 0);
  const byPriority = PRIORITIES.map((name, number) => `${name} ${count(open[number])}`);
  tiles.open.show(count(open.reduce((total, some) => total + some, 0), isApp && !queues.is_complete), byPriority.join(", "));

  const overdue = sum(queues.lines, "overdue_count");
  const oldest = Math.max(0, ...queues.lines.map((line) => line.oldest_age_s));
  tiles.overdue.show(count(overdue, !queues.is_complete), seen ? `oldest ${span(oldest)}` : "nothing waits", overdue ? "bad" : "");

  const next = Math.min(...held.lines.map((line) => line.next_due_at_ms));
  tiles.held.show(count(held.total, isApp && !held.is_complete), held.lines.length ? `next due ${at(next, told.at_ms)}` : "nothing is held");

  const dead = sum(told.dead.lines, "count");
  tiles.dead.show(count(dead, !told.dead.is_complete), dead ? `last ${at(Math.max(...told.dead.lines.map((line) => line.newest_at_ms)))}` : "none", dead ? "bad" : "");

  const unknown = sum(told.providers.lines, "unknown_count");
  const doubled = sum(told.providers.lines, "doubled_count");
  const doubles = doubled ? `${count(doubled)} sent again: may have come twice` : "none sent again";
  tiles.unknown.show(count(unknown, !told.providers.is_complete), doubles, unknown || doubled ? "warn" : "");
}
