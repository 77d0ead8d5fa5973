// Where the page's server is: its own origin, and the other nodes of the cluster that welcome and reconnect named.
//
// The WebSocket goes to the best place that was not tried yet in this round; when all were tried, the round is over.
// Best is: the other nodes that live, as far as is known (those of the zone of the node that was lost first, and
// among them by chance, weighted by their room, so that the pages of a dead node do not all land on the same one);
// then the page's own origin; then nodes that drain, are full or were not reached; last the node that was lost.
// HTTP goes to the page's own origin as long as that answers, else to the node of the WebSocket, else to the others.

const FULL_LOAD = 0.95; // it is about to turn newcomers away
const MAX_NODES = 64;
const DOWN_MS = 30_000; // for so long HTTP goes elsewhere first

function isOwnMachine(hostname) {
  return hostname === "localhost" || hostname.endsWith(".localhost") || /^(127\.|\[::ffff:7f)/.test(hostname) || ["[::1]", "0.0.0.0", "[::]"].includes(hostname);
}

export class Nodes {
  /** `page` is the page's address; `random` and `now` (ms) are for tests. */
  constructor({ page = location.href, random = Math.random, now = () => performance.now() } = {}) {
    this.page = new URL(page);
    this.random = random;
    this.now = now;
    this.own = `${this.page.protocol === "https:" ? "wss" : "ws"}://${this.page.host}/ws`;
    this.told = new Map(); // WebSocket URL -> what the server said of that node
    this.unreached = new Set();
    this.blocked = new Set(); // origins that this page's policy does not know: nodes that came after it was loaded
    this.tried = new Set();
    this.downAt = new Map(); // HTTP base -> when it last failed
    this.left = "";
    this.leftNode = { node_id: "", zone: "" };
  }

  /** Take a list from the server in place of the one before; an empty one says nothing new. */
  learn(items) {
    const told = new Map();
    for (const node of (items || []).slice(0, MAX_NODES)) {
      const url = this._trusted(node.url);
      if (url) told.set(url, node);
    }
    if (told.size) this.told = told;
  }

  /** The token goes there: never without TLS where the page has it, never to this machine unless the page is from it. */
  _trusted(text) {
    let url;
    try {
      url = new URL(text);
    } catch {
      return "";
    }
    url.protocol = { "http:": "ws:", "https:": "wss:" }[url.protocol] || url.protocol;
    if (url.protocol !== "wss:" && (url.protocol !== "ws:" || this.page.protocol === "https:")) return "";
    if (isOwnMachine(url.hostname) && !isOwnMachine(this.page.hostname)) return "";
    return `${url.protocol}//${url.host}${url.pathname === "/" ? "/ws" : url.pathname}`;
  }

  /** The page's policy does not let it go to this address. */
  block(address) {
    try {
      this.blocked.add(new URL(address).host);
    } catch {
      // "inline", "eval": not an address
    }
  }

  opened(url, node_id) {
    this.unreached.delete(url);
    this.downAt.delete(baseOf(url));
    this.tried.clear();
    this.left = url;
    this.leftNode = [...this.told.values()].find((node) => node.node_id === node_id) || { node_id, zone: "" };
  }

  /** No session came about at `url`. Returns whether another place is left to try now; else this round is over. */
  failed(url) {
    this.tried.add(url);
    this.unreached.add(url);
    this.downAt.set(baseOf(url), this.now());
    if (this._places().some((place) => !this.tried.has(place))) return true;
    this.tried.clear();
    return false;
  }

  /** The session at `url` ended without a word, so HTTP would find nobody there either. */
  silent(url) {
    this.downAt.set(baseOf(url), this.now());
  }

  get hasChoice() {
    return this._places().length > 1;
  }

  /** Where to open the WebSocket now. */
  next() {
    const places = this._places();
    const open = places.filter((place) => !this.tried.has(place));
    const ranked = (open.length ? open : places).map((place) => [this._rank(place), place]);
    ranked.sort(([one], [other]) => one.reduce((order, part, index) => order || part - other[index], 0));
    return ranked[0][1];
  }

  _places() {
    const all = [...new Set([...this.told.keys(), this.own])];
    return all.filter((place) => place === this.own || !this.blocked.has(new URL(place).host));
  }

  _rank(url) {
    const node = this.told.get(url);
    if (!node) return [url === this.left ? 2 : 1, 0, this.random()];
    const isLeft = url === this.left || (node.node_id && node.node_id === this.leftNode.node_id);
    const isDoubtful = this.unreached.has(url) || node.draining || (node.load || 0) >= FULL_LOAD;
    const group = isLeft ? 4 : !isDoubtful ? 0 : url === this.own ? 1 : 3;
    const room = Math.min(1, Math.max(0.01, 1 - (node.load || 0)));
    const isElsewhere = this.leftNode.zone && (node.zone || "") !== this.leftNode.zone ? 1 : 0;
    return [group, isElsewhere, -Math.log(1 - this.random()) / (room * room)]; // a weighted shuffle
  }

  // -- HTTP -----------------------------------------------------------------------------------------

  /** What to put before a path of the API, best first; "" is the page's own origin. */
  bases() {
    const own = baseOf(this.own);
    const others = [this.left, ...this.told.keys()].filter((url) => url && this._places().includes(url)).map(baseOf);
    const isDown = (base) => this.now() - (this.downAt.get(base) ?? -Infinity) < DOWN_MS;
    const all = [...new Set([own, ...others])];
    all.sort((one, other) => isDown(one) - isDown(other)); // stable
    return all.map((base) => (base === own ? "" : base));
  }

  httpFailed(base) {
    this.downAt.set(base || baseOf(this.own), this.now());
  }

  httpReached(base) {
    this.downAt.delete(base || baseOf(this.own));
  }
}

function baseOf(url) {
  return url ? url.replace(/^ws/, "http").replace(/\/ws$/, "") : "";
}
