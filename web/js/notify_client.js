// What happens between the notification centre and the server: reading pages, marks, preferences, devices, and what
// the service worker has to tell.

import { MarkQueue } from "./mark_queue.js";
import { Preferences } from "./preferences.js";
import { Push } from "./push.js";

const PAGE = 30;
const MAX_PAGE = 200; // protocol/limits.py has more; who has scrolled further comes back to here
const SEEN_MS = 250;
export const UNDO_MS = 6000; // for so long a dismissal waits, as the server takes none back

export class NotifyClient {
  /** `client`: the page's (client.js). */
  constructor(client) {
    this.client = client;
    this.store = client.store.notify;
    this.problem = ""; // why the last page did not come
    this.loading = null;
    this.refreshing = null;
    this.seen = new Set();
    this.badgeTold = -1;
    this.queue = new MarkQueue({
      user_id: client.session.user.user_id,
      storage: localStorage,
      send: async (mark, notification_ids) => (await client._ask({ type: "mark_notifications", mark, notification_ids })).unread || 0,
      onsent: (ids, mark, unread) => {
        this.store.confirm(ids, mark, unread);
        if (unread === null) client._need("notifications", "");
      },
      onfailed: (ids, mark, error) => {
        for (const id of ids) this.store.unwish(id);
        console.warn("marking failed", mark, error.code);
        client.onchange("notify_failed", error.message || error.code);
      },
    });
    for (const { id, mark } of this.queue.items) if (mark !== "seen") this.store.wish(id, mark);
    this.preferences = new Preferences(client);
    this.push = new Push(client, { onmarks: (marks) => this._fromWorker(marks) });
  }

  close() {
    clearTimeout(this.seenTimer);
    this.queue.close();
    this.push.close();
    setAppBadge(0);
  }

  /** Connected, for the first time or again: send what was marked meanwhile, then read what was missed. */
  async welcomed() {
    this.push.welcomed();
    await this.queue.pump();
    this.client._need("notifications", "");
    this.preferences.welcomed();
  }

  // -- pages ----------------------------------------------------------------------------------------

  /** Read the newest page; the badge comes with it. */
  refresh() {
    this.refreshing ||= this._refresh().finally(() => (this.refreshing = null));
    return this.refreshing;
  }

  async _refresh() {
    this.store.beginPage();
    try {
      const limit = Math.min(MAX_PAGE, Math.max(PAGE, this.store.items.size)); // nothing goes from under their eyes
      this.store.startPage(await this.client._ask({ type: "list_notifications", limit }));
      this.problem = "";
    } catch (error) {
      if (error.code !== "disconnected") this.problem = error.message || error.code;
      throw error; // asked again where it says when
    } finally {
      this.store.endPage();
      this.client.onchange("notifications");
    }
  }

  /** The person asks again after a failure. */
  retry() {
    this.problem = "";
    this.client.onchange("notifications");
    if (this.store.is_loaded) this.older();
    else this.client._need("notifications", "");
  }

  /** The page behind the last one. */
  older() {
    if (this.loading || this.problem || !this.store.is_loaded || this.store.is_end || this.client.connection.state !== "open") return;
    const before = this.store.oldest;
    this.loading = this.client.ask({ type: "list_notifications", before, limit: PAGE })
      .then((page) => this.store.addOlder(before, page), (error) => {
        this.problem = error.message || error.code;
      })
      .finally(() => {
        this.loading = null;
        this.client.onchange("notifications");
      });
    this.client.onchange("notifications");
  }

  // -- marks ----------------------------------------------------------------------------------------

  /** Read, unread, opened or clicked: at once on the screen, and at the server as soon as it can be. */
  mark(id, mark) {
    this.store.wish(id, mark);
    this.queue.add([id], mark);
    if (mark !== "unread") this.push.closeShown([id]);
  }

  /** These stand on a screen that somebody looks at. */
  markSeen(ids) {
    for (const id of ids) this.seen.add(id);
    clearTimeout(this.seenTimer);
    this.seenTimer = setTimeout(() => {
      const fresh = [...this.seen].filter((id) => {
        const item = this.store.item(id);
        return item && !item.seen;
      });
      this.seen.clear();
      if (!fresh.length) return;
      for (const id of fresh) this.store.wish(id, "seen");
      this.queue.add(fresh, "seen");
    }, SEEN_MS);
  }

  /** All that there are now, also those that are not loaded. Rejects where it did not work. */
  async readAll() {
    const up_to = this.store.newest;
    if (!up_to) return;
    const ids = this.store.shown().filter((item) => !item.read).map((item) => item.notification_id);
    for (const id of ids) this.store.wish(id, "read");
    try {
      const { unread } = await this.client.ask({ type: "mark_notifications", mark: "read", up_to });
      this.store.confirm(ids, "read", unread || 0);
      this.push.closeShown(null);
    } catch (error) {
      for (const id of ids) this.store.unwish(id);
      throw error;
    }
  }

  /** Out of the centre, in some seconds. */
  dismiss(id) {
    this.store.wish(id, "dismissed");
    this.queue.add([id], "dismissed", { wait_ms: UNDO_MS });
    this.push.closeShown([id]);
  }

  undoDismiss(id) {
    if (this.queue.remove(id, "dismissed")) this.store.unwish(id);
  }

  /** What was clicked or put away outside of the page. */
  _fromWorker(marks) {
    for (const { notification_id, mark } of marks) {
      this.store.wish(notification_id, mark);
      this.queue.add([notification_id], mark);
    }
  }

  // -- the badge ------------------------------------------------------------------------------------

  /** Show the count where the system shows one. */
  tellBadge() {
    const { unread } = this.store;
    if (unread === this.badgeTold || !this.store.is_loaded) return;
    this.badgeTold = unread;
    setAppBadge(unread);
  }
}

function setAppBadge(count) {
  if (!navigator.setAppBadge) return;
  (count ? navigator.setAppBadge(count) : navigator.clearAppBadge()).catch(() => {}); // it is not installed
}
