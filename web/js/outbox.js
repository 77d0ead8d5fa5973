// Messages that were written but are not known to be stored. They lie in localStorage until the server's ack, so a
// reload, a crash or a lost connection sends them again, under the same client_id: the server keeps one.
//
// In one conversation one send is under way at a time, so that a retry cannot change the order of what was
// written. Several tabs may send the same item; that too is one message.

const RETRY_MS = 1500; // where an error may pass but does not say when
const LATER = new Set(["disconnected", "timeout"]);

export function newClientId() {
  // randomUUID needs a secure context; a page served over plain HTTP in a home network has none.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  /** `send(item)` resolves with the ack; `onsent(item, ack)` comes before the item goes; `onchange(item)`. */
  constructor({ name = "", user_id, storage, send, onsent, onchange }) {
    Object.assign(this, { storage, send, onsent, onchange });
    this.prefix = `hubbub.outbox.${name ? `${name}.` : ""}${user_id}.`;
    this.items = new Map();
    this.busy = new Set(); // conversations with a send under way
    for (const key of Object.keys(storage)) {
      if (!key.startsWith(this.prefix)) continue;
      try {
        const item = JSON.parse(storage.getItem(key));
        if (item.state !== "failed") item.state = "queued";
        this.items.set(item.client_id, item);
      } catch {
        storage.removeItem(key);
      }
    }
  }

  add(fields) {
    const item = { ...fields, client_id: newClientId(), at_ms: Date.now(), state: "queued", error: "" };
    this.items.set(item.client_id, item);
    this._keep(item);
    this.onchange(item);
    this.pump(item.conversation_id);
    return item;
  }

  /** Oldest first. */
  of(conversation_id, thread = null) {
    return [...this.items.values()]
      .filter((item) => item.conversation_id === conversation_id && (thread === null || (item.thread || 0) === thread))
      .sort((one, other) => one.at_ms - other.at_ms);
  }

  /** The message with this client_id is stored: seen as an event, or acked. */
  settle(client_id) {
    const item = this.items.get(client_id);
    if (!item) return;
    this.items.delete(client_id);
    this.storage.removeItem(this.prefix + client_id);
    this.onchange(item);
  }

  retry(client_id) {
    const item = this.items.get(client_id);
    if (!item) return;
    this._set(item, "queued", "");
    this.pump(item.conversation_id);
  }

  /** Connected again: send everything that is not refused for good. */
  pumpAll() {
    for (const conversation_id of new Set([...this.items.values()].map((item) => item.conversation_id))) {
      this.pump(conversation_id);
    }
  }

  async pump(conversation_id) {
    if (this.busy.has(conversation_id)) return;
    this.busy.add(conversation_id);
    try {
      let item;
      while ((item = this.of(conversation_id).find((one) => one.state === "queued"))) {
        this._set(item, "sending", "");
        try {
          const ack = await this.send(item);
          this.onsent(item, ack);
          this.settle(item.client_id);
        } catch (error) {
          if (!this.items.has(item.client_id)) continue; // its event came before the connection went
          if (LATER.has(error.code)) {
            this._set(item, "queued", "");
            if (error.code === "disconnected") return; // pumpAll comes with the next welcome
          } else if (typeof error.retry_after_s === "number") {
            this._set(item, "queued", "");
            await new Promise((resolve) => setTimeout(resolve, (error.retry_after_s * 1000 || RETRY_MS) + 200 + Math.random() * 500));
          } else this._set(item, "failed", error.message || error.code);
        }
      }
    } finally {
      this.busy.delete(conversation_id);
    }
  }

  clear() {
    for (const client_id of [...this.items.keys()]) this.settle(client_id);
  }

  _set(item, state, error) {
    const next = { ...item, state, error };
    Object.assign(item, next);
    item.version = (item.version || 0) + 1;
    if (state === "failed" || state === "queued") this._keep(item);
    this.onchange(item);
  }

  _keep(item) {
    try {
      this.storage.setItem(this.prefix + item.client_id, JSON.stringify(item));
    } catch {
      // The browser's store is full or closed: the message lives as long as this tab does.
    }
  }
}
