// What this tab knows of the notification centre, as a function of what the server said. No I/O.
//
// The items are one stretch without a hole, newest first. `wishes` are marks of this browser that the server has not
// confirmed: what is shown is what the server said with the wishes on top, and so the badge is exact at any moment,
// also offline and whatever order answers and events come in.

const READ = new Set(["read", "opened", "clicked", "dismissed"]);

/** Give absent fields their defaults, as the server leaves them out. */
function whole(item) {
  return { title: "", text: "", url: "", image: "", count: 0, seen: false, read: false, ...item };
}

function marked(item, mark) {
  if (mark === "unread") return { ...item, read: false };
  return { ...item, seen: true, read: item.read || READ.has(mark) };
}

export class NotifyStore {
  /** `onchange("notifications")`; `onneed("notifications", "")`: read the newest page. */
  constructor({ onchange = () => {}, onneed = () => {} } = {}) {
    Object.assign(this, { onchange, onneed });
    this.items = new Map(); // notification_id -> item, as the server knows it
    this.unreadTold = 0; // as the server counted last
    this.wishes = new Map(); // notification_id -> mark
    this.is_loaded = false;
    this.is_end = false;
    this.touched = null; // ids that events told of while a page is being read
  }

  // -- what is shown --------------------------------------------------------------------------------

  /** Newest first, without what was dismissed here. */
  shown() {
    return [...this.items.values()]
      .filter((item) => this.wishes.get(item.notification_id) !== "dismissed")
      .sort((one, other) => other.notification_id - one.notification_id)
      .map((item) => this._wished(item));
  }

  item(id) {
    const known = this.items.get(id);
    return known ? this._wished(known) : null;
  }

  _wished(item) {
    const mark = this.wishes.get(item.notification_id);
    if (!mark) return item;
    const now = marked(item, mark);
    return now.read === item.read && now.seen === item.seen ? item : now;
  }

  /** The badge: how many of all notifications are not read. */
  get unread() {
    let unread = this.unreadTold;
    for (const [id, mark] of this.wishes) {
      const item = this.items.get(id);
      if (item) unread += Number(!marked(item, mark).read) - Number(!item.read);
    }
    return Math.max(0, unread);
  }

  get newest() {
    return Math.max(0, ...this.items.keys());
  }

  get oldest() {
    return this.items.size ? Math.min(...this.items.keys()) : 0;
  }

  // -- pages ----------------------------------------------------------------------------------------

  /** A read of the newest page begins: events from now on are younger than what it brings. */
  beginPage() {
    this.touched ||= new Set();
  }

  endPage() {
    this.touched = null;
  }

  /** The newest page takes the place of all that was known: older ones may have been marked unheard. */
  startPage({ items = [], unread = 0, more = false }) {
    const touched = this.touched || new Set();
    const oldest = more && items.length ? items.at(-1).notification_id : 0;
    const kept = new Map();
    for (const [id, item] of this.items) if (touched.has(id) && id >= oldest) kept.set(id, item);
    for (const item of items) if (!touched.has(item.notification_id)) kept.set(item.notification_id, whole(item));
    this.items = kept;
    this.is_end = !more;
    this.is_loaded = true;
    if (!touched.size) this.unreadTold = unread;
    this.onchange("notifications");
  }

  /** The page behind `before`. */
  addOlder(before, { items = [], more = false }) {
    if (before !== this.oldest) return; // another newest page has come meanwhile
    for (const item of items) if (!this.items.has(item.notification_id)) this.items.set(item.notification_id, whole(item));
    this.is_end = !more;
    this.onchange("notifications");
  }

  // -- events ---------------------------------------------------------------------------------------

  apply(event) {
    if (event.type === "notification") this._show(whole(event.item), event.unread || 0);
    else this._mark(event);
  }

  _show(item, unread) {
    const id = item.notification_id;
    const known = this.items.get(id);
    // One that tells of more again, from behind what is loaded: it comes by paging, and whether it was read is not known.
    const isBehind = this.is_loaded && !known && !this.is_end && id < this.oldest;
    const expected = this.unreadTold + Number(!item.read) - Number(known ? !known.read : false);
    // One that was read tells of more now: the wish was about what it told before.
    if (known && !item.read && READ.has(this.wishes.get(id)) && item.count !== known.count) this.wishes.delete(id);
    this.touched?.add(id);
    if ((this.is_loaded || this.touched) && !isBehind) this.items.set(id, item);
    this._counted(unread, isBehind ? unread : expected);
  }

  _mark({ mark, notification_ids = [], up_to = 0, unread = 0 }) {
    const ids = new Set(notification_ids);
    if (up_to) for (const id of this.items.keys()) if (id <= up_to) ids.add(id);
    let expected = this.unreadTold;
    let isExact = !up_to;
    for (const id of ids) {
      this.touched?.add(id);
      const item = this.items.get(id);
      if (!item) {
        isExact = false;
        continue;
      }
      const next = marked(item, mark);
      expected += Number(!next.read) - Number(!item.read);
      if (mark === "dismissed") this.items.delete(id);
      else this.items.set(id, next);
      if (this.wishes.get(id) === mark) this.wishes.delete(id);
    }
    this._counted(unread, isExact ? expected : unread);
  }

  /** Where the count is another than it should be, something was not heard. */
  _counted(unread, expected) {
    this.unreadTold = unread;
    if (unread !== expected && this.is_loaded) this.onneed("notifications", "");
    this.onchange("notifications");
  }

  // -- marks ----------------------------------------------------------------------------------------

  wish(id, mark) {
    const item = this.items.get(id);
    if (item && mark !== "dismissed" && marked(item, mark).read === item.read && marked(item, mark).seen === item.seen) this.wishes.delete(id);
    else this.wishes.set(id, mark);
    this.onchange("notifications");
  }

  unwish(id) {
    if (this.wishes.delete(id)) this.onchange("notifications");
  }

  /** The server has stored a mark; `unread` as it counts now, null where it did not say. */
  confirm(ids, mark, unread) {
    for (const id of ids) {
      const item = this.items.get(id);
      if (item && mark === "dismissed") this.items.delete(id);
      else if (item) this.items.set(id, marked(item, mark));
      if (this.wishes.get(id) === mark) this.wishes.delete(id);
      this.touched?.add(id);
    }
    if (unread !== null) this.unreadTold = unread;
    this.onchange("notifications");
  }
}
