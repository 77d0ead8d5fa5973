// What the person wants to hear, as this tab knows it. A change shows at once and is taken back where the server does
// not take it; of several the last one wins. Other tabs' changes come by reading again when the page is looked at.

export const CHANNELS = {
  inapp: "In the app", apns: "iPhone and iPad", fcm: "Android", webpush: "Browsers", sms: "Text message", email: "Email", apprise: "Other services",
};
export const FREQUENCIES = { immediate: "At once", daily: "Daily digest", weekly: "Weekly digest", off: "Never" };

/** Whether a type may come on a channel: its own choice beats the general one (actors/notify/wishes.py). */
export function isWanted(preferences, type, channel) {
  const wish = (preferences.types || {})[type];
  if (wish) {
    if (wish.channels && channel in wish.channels) return wish.channels[channel];
    if (wish.frequency === "off") return false;
  }
  if (!(wish && wish.frequency) && preferences.frequency === "off") return false;
  return (preferences.channels || {})[channel] ?? true;
}

/** Another wish for one type; what says nothing any more is left out. `fields`: {channel, on} or {frequency}. */
export function withType(preferences, type, { channel = "", on = true, frequency = undefined }) {
  const types = { ...preferences.types };
  const wish = { ...types[type] };
  if (channel) wish.channels = { ...wish.channels, [channel]: on };
  if (frequency !== undefined) {
    if (frequency) wish.frequency = frequency;
    else delete wish.frequency;
  }
  if (wish.frequency || Object.keys(wish.channels || {}).length) types[type] = wish;
  else delete types[type];
  return { ...preferences, types };
}

export class Preferences {
  constructor(client) {
    this.client = client;
    this.info = null; // preferences, types, consents, time_zone, vapid_public_key
    this.wish = null; // preferences that the server has not confirmed
    this.problem = "";
    this.isSending = false;
    this.users = 0; // views that show them
  }

  /** As shown. */
  get current() {
    return this.wish || (this.info && this.info.preferences) || {};
  }

  /** A view shows them: kept up to date until `leave`. */
  enter() {
    this.users += 1;
    this.load();
  }

  leave() {
    this.users -= 1;
  }

  welcomed() {
    if (this.users) this.load();
  }

  /** Read them; resolves with them, or null where that failed. */
  async load() {
    if (this.client.connection.state !== "open") return null; // welcomed() comes
    try {
      const info = await this.client.ask({ type: "get_preferences" });
      if (!this.isSending) this._take(info);
      this.problem = "";
      return info;
    } catch (error) {
      if (error.code !== "disconnected") this.problem = error.message || error.code;
      return null;
    } finally {
      this.client.onchange("preferences");
    }
  }

  _take({ preferences = {}, types = [], consents = [], time_zone = "", vapid_public_key = "" }) {
    this.info = { preferences, types, consents, time_zone, vapid_public_key };
  }

  /** Change them: `change(preferences)` returns the new ones. Rejects where the server does not take them. */
  async set(change) {
    this.wish = change(this.current);
    this.client.onchange("preferences");
    if (this.isSending) return;
    this.isSending = true;
    try {
      for (let told = null; this.wish !== told; ) {
        told = this.wish;
        this._take(await this.client.ask({ type: "set_preferences", preferences: told }));
      }
    } finally {
      this.wish = null;
      this.isSending = false;
      this.client.onchange("preferences");
    }
  }

  async setConsent(purpose, given) {
    this._take(await this.client.ask({ type: "set_consent", purpose, given }));
    this.client.onchange("preferences");
  }
}
