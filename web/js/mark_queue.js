// Marks of notifications that the server has not confirmed. They lie in localStorage, so what was read on a train is
// read when the connection comes back, also after a reload. Several tabs may send the same mark: that changes nothing.

const LATER = new Set(["disconnected", "timeout"]);
const RETRY_MS = 1500;
const BATCH = 200; // protocol/notify_commands.py

export class MarkQueue {
  /** `send(mark, ids)` resolves with the server's count; `onsent(ids, mark, unread)`; `onfailed(ids, mark, error)`. */
  constructor({ user_id, storage, send, onsent, onfailed, now = () => Date.now() }) {
    Object.assign(this, { storage, send, onsent, onfailed, now });
    this.key = `hubbub.outbox.marks.${user_id}`;
    this.isBusy = false;
    this.items = this._kept();
    window.addEventListener("storage", (this._onstorage = (event) => {
      if (event.key === this.key) this.items = this._kept();
    }));
  }

  close() {
    window.removeEventListener("storage", this._onstorage);
    clearTimeout(this.timer);
  }

  _kept() {
    if (this.isBroken) return this.items;
    try {
      const kept = JSON.parse(this.storage.getItem(this.key) || "[]");
      return Array.isArray(kept) ? kept.filter((item) => item && Number.isSafeInteger(item.id) && item.mark) : [];
    } catch {
      return [];
    }
  }

  _keep() {
    try {
      if (this.items.length) this.storage.setItem(this.key, JSON.stringify(this.items));
      else this.storage.removeItem(this.key);
      this.isBroken = false;
    } catch {
      this.isBroken = true; // the browser's store is full or closed: marks live as long as this tab does
    }
  }

  /** Mark these; `wait_ms`: not before, so that it can still be taken back. The last mark of one is what counts. */
  add(ids, mark, { wait_ms = 0 } = {}) {
    const due_ms = wait_ms ? this.now() + wait_ms : 0;
    this.items = this._kept().filter((item) => !ids.includes(item.id) || mark === "seen");
    for (const id of ids) {
      if (mark !== "seen" || !this.items.some((item) => item.id === id)) this.items.push({ id, mark, due_ms });
    }
    this._keep();
    this.pump();
  }

  /** Take a mark back that waits. Returns whether it was still there. */
  remove(id, mark) {
    const before = this._kept();
    this.items = before.filter((item) => item.id !== id || item.mark !== mark);
    this._keep();
    return this.items.length < before.length;
  }

  /** Send what is due, those of one kind together, until nothing is or there is no connection. */
  async pump() {
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      for (;;) {
        const now = this.now();
        const first = this.items.find((item) => item.due_ms <= now);
        if (!first) return;
        const batch = this.items.filter((item) => item.mark === first.mark && item.due_ms <= now).slice(0, BATCH);
        const ids = batch.map((item) => item.id);
        try {
          const unread = await this.send(first.mark, ids);
          this._done(ids, first.mark);
          this.onsent(ids, first.mark, unread);
        } catch (error) {
          if (error.code === "notification_not_found") { // dismissed elsewhere, or too old
            this._done(ids, first.mark);
            this.onsent(ids, first.mark, null);
          } else if (LATER.has(error.code) || typeof error.retry_after_s === "number") {
            if (error.code !== "disconnected") this._again((error.retry_after_s || 0) * 1000 + RETRY_MS);
            return;
          } else {
            this._done(ids, first.mark);
            this.onfailed(ids, first.mark, error);
          }
        }
      }
    } finally {
      this.isBusy = false;
      const next = Math.min(...this.items.map((item) => item.due_ms).filter((due_ms) => due_ms > this.now()));
      if (Number.isFinite(next)) this._again(next - this.now() + 5);
    }
  }

  _again(wait_ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.pump(), wait_ms);
  }

  _done(ids, mark) {
    this.items = this._kept().filter((item) => item.mark !== mark || !ids.includes(item.id));
    this._keep();
  }
}
