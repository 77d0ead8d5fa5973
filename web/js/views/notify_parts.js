// Parts of the notification settings that know nothing of preferences: push to this browser, the list of devices, and
// the coming days.

import { drawIcon, h, reconcile } from "../dom.js";
import { CHANNELS } from "../preferences.js";
import { ago, clock, dayKey, dayName } from "../time.js";
import { attempt, confirmDialog, toast } from "./parts.js";

const ICONS = { webpush: "feed", apns: "person", fcm: "person", sms: "chat", email: "pen", apprise: "link" };
const PLAN_DAYS = 7;
const MAX_PLANNED = 50;
const REASONS = { quiet_hours: "quiet hours", digest: "gathered for a digest", cap: "enough for one hour", schedule: "planned for then", batch: "gathered with similar ones" };

export class PushPart {
  constructor(app, onchanged) {
    this.app = app;
    this.push = app.client.notify.push;
    this.onchanged = onchanged;
    this.node = h("div");
  }

  render() {
    const { push } = this;
    const { isOn, obstacle, isBusy } = push;
    const isOffered = Boolean(this.app.client.notify.preferences.info?.vapid_public_key);
    reconcile(this.node, [{ key: "push", deps: [isOn, obstacle, isBusy, isOffered, push.problem], render: () => this._row(isOn, isOffered ? obstacle : "This server does not push to browsers.", isBusy) }]);
  }

  _row(isOn, obstacle, isBusy) {
    const box = h("input", { type: "checkbox", role: "switch", class: "switch", id: "push-here", disabled: isBusy || (Boolean(obstacle) && !isOn), dataset: { focus: "push" } });
    box.checked = isOn;
    box.addEventListener("change", () => this._set(box));
    const hint = obstacle || this.push.problem || "Also while this page is closed. Nothing is pushed that you have seen here already.";
    return h("div", { class: "switch-row setting" }, h("label", { for: "push-here" }, "Push to this browser", h("span", { class: obstacle || this.push.problem ? "person-sub problem" : "person-sub", text: hint })), box);
  }

  async _set(box) {
    try {
      await (box.checked ? this.push.enable() : this.push.disable());
    } catch (error) {
      toast(error.message || error.code, { isError: true });
    }
    this.render();
    this.onchanged();
  }
}

export class DevicesPart {
  constructor(app) {
    this.app = app;
    this.items = null;
    this.node = h("div");
  }

  async load() {
    if (this.app.client.connection.state !== "open") return; // connected() comes
    const reply = await this.app.client.ask({ type: "list_push" }).catch(() => null);
    if (reply) this.items = reply.items || [];
    this.render();
  }

  render() {
    const items = this.items || [];
    const mine = this.app.client.notify.push.device_key;
    if (mine !== this.mine) { // this browser has got another address, or none
      this.mine = mine;
      if (this.items) this.load();
    }
    reconcile(this.node, [{ key: "list", deps: [this.items, mine], render: () => (items.length
      ? h("ul", { class: "people", "aria-label": "Devices" }, items.map((item) => this._row(item, item.device_key === mine)))
      : h("p", { class: "hint", text: "Nowhere but in the app." })) }]);
  }

  _row(item, isMine) {
    const name = item.name || CHANNELS[item.channel];
    const words = [item.name ? CHANNELS[item.channel] : "", item.address, isMine ? "this one" : "", item.retired_for ? `nothing is sent: ${item.retired_for}` : "", item.registered_at_ms ? `since ${ago(item.registered_at_ms).replace(/^on /, "")}` : ""];
    return h("li", { class: "person-row", dataset: { device: item.device_key } }, drawIcon(ICONS[item.channel] || "feed"),
      h("span", { class: "person-words" }, h("span", { class: "person-name", text: name }), h("span", { class: "person-sub", text: words.filter(Boolean).join(" · ") })),
      h("button", { type: "button", class: "button small danger", text: "Remove", "aria-label": `Remove: ${name}`, onclick: () => this._remove(item, name, isMine) }));
  }

  _remove(item, name, isMine) {
    confirmDialog("Remove this device", `Nothing is sent to ${name} any more.`, "Remove", async () => {
      const before = this.items;
      this.items = before.filter((one) => one !== item);
      this.render();
      try {
        if (isMine) await this.app.client.notify.push.disable();
        else await this.app.client.ask({ type: "unregister_push", device_key: item.device_key });
      } catch (error) {
        if (error.code !== "device_not_found") {
          this.items = before;
          toast(error.message || error.code, { isError: true });
        }
      }
      this.load();
    });
  }
}

export class ForecastPart {
  constructor(app) {
    this.app = app;
    this.items = null;
    this.node = h("div");
  }

  async load() {
    if (this.app.client.connection.state !== "open") return;
    const reply = await attempt(this.app.client.ask({ type: "plan_notifications", days: PLAN_DAYS }));
    if (reply) this.items = reply.items || [];
    this.render();
  }

  render() {
    const titles = new Map((this.app.client.notify.preferences.info?.types || []).map((type) => [type.name, type.title || type.name]));
    reconcile(this.node, this.items ? [{ key: "plan", deps: [this.items, titles.size], render: () => this._plan(titles) }] : []);
  }

  _plan(titles) {
    const shown = this.items.slice(0, MAX_PLANNED);
    if (!shown.length) return h("p", { class: "hint", text: "Nothing is planned, and no quiet hours. What happens is told as it happens." });
    const days = new Map();
    for (const item of shown) {
      const key = dayKey(item.at_ms);
      if (!days.has(key)) days.set(key, []);
      days.get(key).push(item);
    }
    return h("div", { class: "plan" }, [...days.values()].map((items) => h("div", {}, h("h3", { class: "section", text: dayOf(items[0].at_ms) }),
      h("ul", {}, items.map((item) => h("li", { class: `plan-item plan-${item.kind}` }, h("time", { datetime: new Date(item.at_ms).toISOString(), text: clock(item.at_ms) }), h("span", { text: words(item, titles) })))))));
  }
}

function dayOf(at_ms) {
  return dayKey(at_ms) === dayKey(Date.now() + 86_400_000) ? "Tomorrow" : dayName(at_ms);
}

/** One line of the plan, for people. */
function words({ kind, types = [], channels = [], notification_ids = [], until_ms = 0, reason = "" }, titles) {
  const what = [...new Set(types)].map((type) => titles.get(type) || type).join(", ") || "Notifications";
  const count = notification_ids.length > 1 ? ` (${notification_ids.length})` : "";
  const why = REASONS[reason] || reason.replace(/_/g, " ");
  const until = until_ms ? (dayKey(until_ms) === dayKey(Date.now()) ? clock(until_ms) : `${dayOf(until_ms)}, ${clock(until_ms)}`) : "";
  if (kind === "quiet") return `Quiet hours${until ? ` until ${until}` : ""}`;
  if (kind === "hold") return `${what}${count} waits${until ? ` until ${until}` : ""}${why ? `: ${why}` : ""}`;
  if (kind === "drop") return `${what}${count} is not sent${why ? `: ${why}` : ""}`;
  return `${what}${count}${channels.length ? ` · ${channels.map((channel) => CHANNELS[channel] || channel).join(", ")}` : ""}`;
}
