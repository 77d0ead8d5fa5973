// What one wants to be told of, where and when; at which devices; and what that means for the coming days.

import { button, drawIcon, h, reconcile } from "../dom.js";
import { CHANNELS, FREQUENCIES, isWanted, withType } from "../preferences.js";
import { date } from "../time.js";
import { columns } from "./feed.js";
import { DevicesPart, ForecastPart, PushPart } from "./notify_parts.js";
import { attempt, confirmDialog, toast } from "./parts.js";
import { stateLine } from "./post.js";

const DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const QUIET = { start: "22:00", end: "07:00" };
let nextId = 0;

function select(label, options, value, onchange, more = {}) {
  const node = h("select", { class: "field select", "aria-label": label, onchange: () => onchange(node.value), ...more },
    Object.entries(options).map(([key, text]) => h("option", { value: key, text })));
  node.value = value;
  return node;
}

function timeField(label, value, onchange) {
  const node = h("input", { class: "field time-field", type: "time", required: true, "aria-label": label, value, dataset: { focus: label } });
  node.addEventListener("change", () => node.value && onchange(node.value));
  return node;
}

function toggle(label, isOn, onchange, more = {}) {
  const node = h("input", { type: "checkbox", role: "switch", class: "switch", "aria-label": label, ...more });
  node.checked = isOn;
  node.addEventListener("change", () => onchange(node.checked));
  return node;
}

/** A line with words at its left and a control at its right. */
function line(text, control, hint = "") {
  const id = `setting-${(nextId += 1)}`;
  control.id ||= id;
  return h("div", { class: "switch-row setting" }, h("label", { for: control.id }, text, hint ? h("span", { class: "person-sub", text: hint }) : null), control);
}

export class NotifySettingsPage {
  constructor(app) {
    this.app = app;
    this.title = "Notification settings";
    this.preferences = app.client.notify.preferences;
    this.refusals = 0;
    this.push = new PushPart(app, () => this.devices.load());
    this.devices = new DevicesPart(app);
    this.forecast = new ForecastPart(app);
    this.general = h("div");
    this.quiet = h("div");
    this.types = h("div");
    this.consents = h("div");
    this.state = h("div", { class: "feed-state", role: "status" });
    this.sections = [
      this._section("This browser", this.push.node),
      this._section("In general", this.general),
      this._section("Quiet hours", this.quiet),
      this._section("What to tell, and where", this.types),
      this._section("What you agreed to", this.consents),
      this._section("Where you can be reached", this.devices.node),
      this._section("The coming days", this.forecast.node),
    ];
    this.node = h("main", { class: "feed", "aria-label": this.title },
      h("div", { class: "feed-scroller", tabindex: "0", role: "region", "aria-label": this.title }, columns(
        h("header", { class: "feed-head" }, button("Back", () => app.back(), { icon: "back", kind: "quiet" }), h("h1", { text: this.title })),
        this.state, this.sections)));
    this.unlisten = [
      app.listen(["visible"], () => document.visibilityState === "visible" && this._load()),
    ];
  }

  _section(title, ...body) {
    return h("section", { class: "settings", "aria-label": title }, h("h2", { text: title }), body);
  }

  opened() {
    this.preferences.enter();
    this.devices.load();
    this.forecast.load();
  }

  connected() {
    this.devices.load();
    this.forecast.load();
  }

  close() {
    this.preferences.leave();
    for (const stop of this.unlisten) stop();
  }

  _load() {
    this.preferences.load();
    this.devices.load();
    this.forecast.load();
  }

  /** Save a change. Where the server refuses it, what is shown goes back by itself. */
  async _set(change) {
    try {
      await this.preferences.set(change);
      this.forecast.load();
    } catch (error) {
      this.refusals += 1; // the switch shows the wish by itself: it is drawn anew also where nothing else is
      this.render();
      toast(`Not saved: ${error.message || error.code}`, { isError: true });
    }
  }

  render() {
    const { info, problem } = this.preferences;
    this.push.render();
    this.devices.render();
    this.forecast.render();
    for (const section of this.sections) section.hidden = !info;
    stateLine(this.state, { problem: info ? "" : problem, isLoading: !info && !problem, onretry: () => this._load() });
    if (!info) return;
    const now = this.preferences.current;
    const key = (...deps) => [JSON.stringify([this.refusals, deps])];
    reconcile(this.general, [{ key: "general", deps: key(now.frequency, now.digest_at, now.digest_weekday, now.channels, info.types, info.time_zone), render: () => this._general(now) }]);
    reconcile(this.quiet, [{ key: "quiet", deps: key(now.quiet_hours, info.time_zone), render: () => this._quiet(now) }]);
    reconcile(this.types, [{ key: "types", deps: key(now, info.types), render: () => this._types(now, info) }]);
    reconcile(this.consents, [{ key: "consents", deps: key(info.consents, info.types), render: () => this._consents(info) }]);
  }

  get _zone() {
    const zone = this.preferences.info.time_zone;
    return zone ? `By the clock of ${zone}, as your profile says.` : "Your profile names no time zone, so the app's is used.";
  }

  get _channels() {
    const offered = new Set(this.preferences.info.types.flatMap((type) => type.offers || type.channels || []));
    return Object.keys(CHANNELS).filter((channel) => offered.has(channel));
  }

  _general(now) {
    const frequency = now.frequency || "immediate";
    const others = { ...FREQUENCIES, off: "Nothing but security" };
    return h("div", {},
      line("How often", select("How often", others, frequency, (value) => this._set((was) => ({ ...was, frequency: value })), { "data-focus": "frequency" })),
      line("Digests come at", timeField("Digests come at", now.digest_at || "09:00", (value) => this._set((was) => ({ ...was, digest_at: value }))), this._zone),
      line("Weekly ones on", select("Weekly digests on", Object.fromEntries(DAYS.map((day, at) => [String(at), day])), String(now.digest_weekday || 0), (value) => this._set((was) => ({ ...was, digest_weekday: Number(value) })), { "data-focus": "weekday" })),
      h("h3", { class: "section", text: "Ways in general" }),
      this._channels.map((channel) => line(CHANNELS[channel], toggle(CHANNELS[channel], (now.channels || {})[channel] ?? true,
        (isOn) => this._set((was) => ({ ...was, channels: { ...was.channels, [channel]: isOn } })), { "data-focus": `all ${channel}` }))));
  }

  _quiet(now) {
    const quiet = now.quiet_hours;
    const set = (fields) => this._set((was) => ({ ...was, quiet_hours: { ...QUIET, ...was.quiet_hours, ...fields } }));
    const isOn = toggle("Quiet hours", Boolean(quiet), (on) => this._set((was) => ({ ...was, quiet_hours: on ? QUIET : null })), { "data-focus": "quiet" });
    if (!quiet) return h("div", {}, line("Do not disturb me at night", isOn, "What comes then waits until they are over. Security is told at any time."));
    const weekdays = quiet.weekdays || [];
    const days = h("fieldset", { class: "days" }, h("legend", { text: "Beginning on" }), DAYS.map((day, at) => {
      const box = h("input", { type: "checkbox", "data-focus": day });
      box.checked = !weekdays.length || weekdays.includes(at);
      box.addEventListener("change", () => {
        const chosen = DAYS.map((_, one) => one).filter((one) => (one === at ? box.checked : !weekdays.length || weekdays.includes(one)));
        if (!chosen.length) { // none at all is to have no quiet hours
          box.checked = true;
          return toast("Turn quiet hours off to have none.");
        }
        return set({ weekdays: chosen.length === 7 ? [] : chosen });
      });
      return h("label", { class: "weekday" }, box, h("span", { text: day.slice(0, 3), "aria-hidden": "true" }), h("span", { class: "visually-hidden", text: day }));
    }));
    return h("div", {}, line("Quiet hours", isOn, "What comes then waits until they are over. Security is told at any time."),
      line("From", timeField("Quiet from", quiet.start, (start) => set({ start })), this._zone),
      line("Until", timeField("Quiet until", quiet.end, (end) => set({ end })), quiet.end <= quiet.start ? "of the next day" : ""), days);
  }

  _types(now, info) {
    const channels = this._channels;
    const row = (type) => {
      const title = type.title || type.name;
      const offers = type.offers || type.channels || [];
      const wish = (now.types || {})[type.name] || {};
      const head = h("th", { scope: "row" }, title, type.is_security ? h("span", { class: "person-sub", text: "Always on" }) : null);
      const often = h("td", {}, type.is_security ? h("span", { class: "person-sub", text: "At once" })
        : select(`How often: ${title}`, { "": "As in general", ...FREQUENCIES }, wish.frequency || "", (value) => this._set((was) => withType(was, type.name, { frequency: value || null })), { "data-focus": `often ${type.name}` }));
      return h("tr", { dataset: { type: type.name } }, head, channels.map((channel) => h("td", { class: "type-switch" }, !offers.includes(channel) ? h("span", { class: "visually-hidden", text: "Not offered" })
        : type.is_security ? h("span", { class: "always", role: "img", "aria-label": `${title}, ${CHANNELS[channel]}: always on`, title: "Always on" }, drawIcon("check"))
          : toggle(`${title}: ${CHANNELS[channel]}`, isWanted(now, type.name, channel), (on) => this._set((was) => withType(was, type.name, { channel, on })), { "data-focus": `${type.name} ${channel}` }))), often);
    };
    return h("div", { class: "types-scroller", tabindex: "0", role: "region", "aria-label": "What to tell, and where: table" }, h("table", { class: "types" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col", text: "What" }), channels.map((channel) => h("th", { scope: "col", text: CHANNELS[channel] })), h("th", { scope: "col", text: "How often" }))),
      h("tbody", {}, info.types.map(row))));
  }

  _consents({ consents, types }) {
    if (!consents.length) return h("p", { class: "hint", text: "Nothing. What needs your consent is not sent." });
    return h("ul", { class: "people" }, consents.map((consent) => {
      const rests = types.filter((type) => type.purpose === consent.purpose).map((type) => type.title || type.name);
      const words = [
        consent.given_at_ms ? `since ${date(consent.given_at_ms)}` : "", consent.source ? `by ${consent.source}` : "",
        consent.ends_at_ms ? `until ${date(consent.ends_at_ms)}` : "", rests.length ? `for ${rests.join(", ")}` : "",
      ].filter(Boolean).join(" · ");
      return h("li", { class: "person-row" },
        h("span", { class: "person-words" }, h("span", { class: "person-name", text: consent.purpose }), h("span", { class: "person-sub", text: words })),
        h("button", { type: "button", class: "button small danger", text: "Withdraw", "aria-label": `Withdraw: ${consent.purpose}`, onclick: () => confirmDialog("Withdraw your consent",
          `Nothing is sent for “${consent.purpose}” any more, and what is kept because of it is erased.`, "Withdraw",
          () => attempt(this.preferences.setConsent(consent.purpose, false).then(() => this.forecast.load()))) }));
    }));
  }
}
