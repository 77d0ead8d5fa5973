// Why did, or didn't, somebody get a notification: every stage with its time, rule and value.

import { announce, fill, h } from "../dom.js";
import { count, precise } from "./words.js";
import { pill } from "./table.js";

const KINDS = { drop: "bad", refused: "bad", unknown: "warn", retry: "warn", hold: "warn", late: "bad" };

/** Make the section; `api()` is who asks now. */
export function explainSection(api) {
  const input = h("input", {
    class: "field", id: "explain-id", inputmode: "numeric", autocomplete: "off", placeholder: "notification_id", maxlength: "16",
  });
  const submit = h("button", { class: "button primary", type: "submit", text: "Explain" });
  const message = h("p", { class: "form-message", role: "alert" });
  const found = h("div", { class: "explanation" });
  const form = h(
    "form", { class: "explain-form", novalidate: true },
    h("label", { for: "explain-id", text: "Notification id" }), input, submit,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const id = input.value.trim();
    fill(found);
    if (!/^\d{1,16}$/.test(id) || !Number.isSafeInteger(Number(id))) {
      message.textContent = "An id is a number; the answer to a request and its webhooks tell it.";
      input.focus();
      return;
    }
    message.textContent = "";
    submit.disabled = true;
    try {
      const told = await api().explain(id);
      fill(found, explanation(told));
      announce(`Notification ${id} is ${told.notification.state}, after ${told.ledger.length} steps.`);
    } catch (error) {
      message.textContent = error.status === 404 ? `There is no notification ${id}.` : error.message;
    } finally {
      submit.disabled = false;
    }
  });
  return h(
    "section", { class: "card", id: "explain" },
    h("h2", { text: "Explain a notification" }),
    h("p", { class: "card-hint", text: "Why did, or didn’t, the user get it?" }),
    form, message, found,
  );
}

function explanation({ notification, deliveries, ledger }) {
  const facts = [
    ["Type", notification.type],
    ["Priority", notification.priority],
    ["User", notification.user_id],
    ["State", notification.state],
    notification.into_id ? ["Became part of", String(notification.into_id)] : null,
    notification.variant ? ["Experiment", notification.variant] : null,
  ].filter(Boolean);
  return [
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", { text: value })))),
    h("ol", { class: "stages", "aria-label": "Stages" }, ledger.map((entry) => h(
      "li", {},
      h("p", { class: "stage-head" }, h("time", { text: `${precise(entry.at_ms)} UTC` }), " ", h("b", { text: entry.kind })),
      h("ul", {}, (entry.decisions || []).map(([stage, outcome, rule, value]) => h(
        "li", { class: "decision" },
        h("span", { class: "stage", text: stage }), pill(outcome, KINDS[outcome] || ""),
        h("span", { class: "rule", text: rule }), value ? h("code", { text: value }) : null,
      ))),
    ))),
    deliveries.length ? h("h3", { text: "Deliveries" }) : null,
    h("ul", { class: "deliveries" }, deliveries.map((delivery) => h(
      "li", {},
      h("b", { text: delivery.channel }), ` to ${delivery.device_key}: ${delivery.state}`,
      delivery.attempt ? ` after ${count(delivery.attempt)} attempt${delivery.attempt > 1 ? "s" : ""} by ${delivery.provider_id || "?"}` : "",
      delivery.code ? ` (${delivery.code})` : "",
      delivery.doubles ? `; it may have come ${count(delivery.doubles)} times more` : "",
    ))),
  ];
}
