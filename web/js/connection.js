// One WebSocket to the server that mends itself: hello, heartbeats, jittered reconnects, answers by id.
//
// States: "connecting" -> "open" (welcomed) -> "waiting" (will try again) -> "connecting" ..., and "stopped" for
// good (signed out, revoked, refused). It knows nothing of conversations: whoever owns it hands in what hello and
// heartbeats say, and gets welcome and every event.

export const FIRST_DELAY_MS = 300;
export const MAX_DELAY_MS = 20_000; // a node's restart must not bring everybody back within one second
const ANSWER_TIMEOUT_MS = 20_000; // longer than any answer of a healthy server
// A heartbeat and not a word after it: the network or the node is gone. A node waits 10 s for its own parts before
// it says "timeout".
const SILENCE_TIMEOUT_MS = 12_000;
const PROBE_MS = 10_000; // a command unanswered and nothing else heard for so long: ask whether anybody is there
const OPEN_TIMEOUT_MS = 12_000; // to open and be welcomed
const FROZEN_MS = 5_000; // the same where another node is to be had; doubled with each round
const SPREAD_MS = 1_000; // the pages of a node that is gone come to the others within this
const CLOSE_REPLACED = 4506;

export class CommandError extends Error {
  constructor(code, message, retry_after_s = null) {
    super(message || code);
    this.code = code;
    this.retry_after_s = retry_after_s;
  }
}

/** Tell whether to connect again after a close code: 4500 to 4999 mean stop. */
export function mayReconnect(code) {
  return !(code >= 4500 && code <= 4999);
}

/** The wait before the n-th try in a row: a random part of a doubling span ("full jitter"). */
export function delayMs(attempt, random = Math.random) {
  const span = Math.min(MAX_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt, 10));
  return FIRST_DELAY_MS / 2 + random() * span;
}

export class Connection {
  /**
   * `nodes` says where (nodes.js). `makeHello()` gives the fields of hello, `makeHeartbeat()` those of a heartbeat; `onwelcome`, `onevent`,
   * `onstate(state, detail)` and `onreplaced` are called as things happen. `makeHello` may return null: stop.
   */
  constructor({ nodes, makeHello, makeHeartbeat, onwelcome, onevent, onstate, onreplaced }) {
    Object.assign(this, { nodes, makeHello, makeHeartbeat, onwelcome, onevent, onstate, onreplaced });
    this.state = "stopped";
    this.socket = null;
    this.attempt = 0;
    this.nextId = 1;
    this.waiting = new Map(); // id -> {resolve, reject, asked_at}, in the order of asking
    this.heardAt = 0;
    this.url = "";
    this.nextBeatAt = Infinity;
    this.beatSentAt = 0;
    this.intervalMs = 30_000;
    this.retryAt = Infinity;
    this._startTicker();
    window.addEventListener("online", () => this.retryNow());
    window.addEventListener("offline", () => this._drop("offline"));
    document.addEventListener("securitypolicyviolation", (event) => this.nodes.block(event.blockedURI));
  }

  start() {
    if (this.state !== "stopped") return;
    this.attempt = 0;
    this._connect();
  }

  /** End for good. */
  stop(detail = {}) {
    this._setState("stopped", detail);
    this._abandon(1000);
  }

  /** Do not wait for the next try. */
  retryNow() {
    if (this.state === "waiting") this._connect();
  }

  /** Send a command; resolves with its reply. Rejects with CommandError; `disconnected` where none can come. */
  ask(command) {
    if (this.state !== "open") return Promise.reject(new CommandError("disconnected", "Not connected."));
    const id = this.nextId++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, asked_at: performance.now() });
      this._write({ ...command, id });
    });
  }

  /** Send a command whose answer nobody needs; dropped where there is no connection. */
  tell(command) {
    if (this.state === "open") this._write(command);
  }

  _write(frame) {
    this.socket.send(JSON.stringify(frame));
  }

  _connect() {
    const hello = this.makeHello();
    if (!hello) return this.stop();
    this.retryAt = Infinity;
    this._setState("connecting");
    this.url = this.nodes.next();
    const patience_ms = this.nodes.hasChoice ? FROZEN_MS * 2 ** Math.min(this.attempt, 10) : OPEN_TIMEOUT_MS;
    this.openBy = performance.now() + Math.min(OPEN_TIMEOUT_MS, patience_ms);
    let socket;
    try {
      socket = new WebSocket(this.url, "hubbub.json");
    } catch {
      return this._nowhere({ reason: "blocked" }); // by the page's policy
    }
    this.socket = socket;
    socket.onopen = () => {
      if (this.socket === socket) this._write({ type: "hello", id: this.nextId++, ...hello });
    };
    socket.onmessage = (message) => {
      if (this.socket === socket) this._receive(message.data);
    };
    socket.onclose = (event) => {
      if (this.socket === socket) this._closed(event.code, event.reason);
    };
    return undefined;
  }

  _receive(data) {
    this.heardAt = performance.now();
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return; // not our server's words; its heartbeat will tell whether anybody is there
    }
    if (frame.type === "welcome") {
      this.attempt = 0;
      this.nodes.learn(frame.nodes);
      this.nodes.opened(this.url, frame.node_id);
      this.intervalMs = (frame.heartbeat_interval_s || 30) * 1000;
      this._planBeat();
      this._setState("open");
      this.onwelcome(frame);
      return;
    }
    if (!frame.id) {
      if (frame.type === "error") return; // nobody asked: the close that follows says what to do
      if (frame.type === "reconnect") {
        this.nodes.learn(frame.nodes);
        this._reconnectWithin((frame.within_s || 1) * 1000);
      }
      this.onevent(frame);
      return;
    }
    if (frame.type === "error" && this.state === "connecting") {
      this.helloError = frame; // the close code decides; the words are for the person
      return;
    }
    const asked = this.waiting.get(frame.id);
    if (!asked) return;
    this.waiting.delete(frame.id);
    if (frame.type === "error") asked.reject(new CommandError(frame.code, frame.message, frame.retry_after_s ?? null));
    else asked.resolve(frame);
  }

  /** The node is about to go. Waiting for its close would bring all its clients back at the same moment. */
  _reconnectWithin(within_ms) {
    const socket = this.socket;
    setTimeout(() => {
      if (this.socket !== socket || this.state !== "open") return;
      this._abandon(1000);
      this._connect();
    }, Math.random() * within_ms);
  }

  _planBeat() {
    this.beatSentAt = 0;
    this.nextBeatAt = performance.now() + this.intervalMs * (0.75 + Math.random() * 0.25);
  }

  _tick() {
    const now = performance.now();
    if (this.state === "waiting" && now >= this.retryAt) this._connect();
    if (this.state === "connecting" && now >= this.openBy) this._drop("no answer");
    if (this.state !== "open") return;
    const [oldest] = this.waiting.values();
    const isDoubtful = oldest && now >= Math.max(oldest.asked_at, this.heardAt) + PROBE_MS;
    for (const [id, asked] of this.waiting) {
      if (asked.asked_at + ANSWER_TIMEOUT_MS > now) break;
      this.waiting.delete(id);
      asked.reject(new CommandError("timeout", "No answer came in time.", 1));
    }
    if (this.beatSentAt && now - Math.max(this.beatSentAt, this.heardAt) > SILENCE_TIMEOUT_MS) this._drop("silence");
    else if (!this.beatSentAt && (isDoubtful || now >= this.nextBeatAt)) this._beat(now);
  }

  _beat(now) {
    this.beatSentAt = now;
    this.ask({ type: "heartbeat", ...this.makeHeartbeat() }).then(
      (reply) => {
        this._planBeat();
        this.onevent(reply);
      },
      (error) => {
        if (error.code !== "disconnected" && error.code !== "timeout") this._planBeat();
      },
    );
  }

  _drop(reason) {
    if (this.state !== "open" && this.state !== "connecting") return;
    const wasOpen = this.state === "open";
    if (reason === "silence") this.nodes.silent(this.url);
    this._abandon(1000);
    if (wasOpen || reason === "offline") this._wait({ reason }, { isLost: wasOpen });
    else this._nowhere({ reason });
  }

  /** The attempt came to nothing: to the next place at once, or, when all were tried, wait. */
  _nowhere(detail) {
    this.openBy = Infinity;
    if (!this.nodes.failed(this.url)) return this._wait(detail);
    setTimeout(() => this.state === "connecting" && !this.socket && this._connect(), 0);
    return undefined;
  }

  _closed(code, reason) {
    const error = this.helloError;
    const wasOpen = this.state === "open";
    this._abandon(null);
    if (code === CLOSE_REPLACED && this.onreplaced()) return this._wait({ code, reason });
    if (!mayReconnect(code)) return this._setState("stopped", { code, reason, error });
    if (wasOpen) {
      if (code === 1006) this.nodes.silent(this.url);
      return this._wait({ code, reason, error }, { isLost: true });
    }
    return this._nowhere({ code, reason, error });
  }

  _wait(detail, { isLost = false } = {}) {
    const wish_ms = ((detail.error && detail.error.retry_after_s) || 0) * 1000;
    const spread_ms = isLost && this.nodes.hasChoice ? Math.random() * SPREAD_MS : 0;
    const wait_ms = Math.max(delayMs(this.attempt), spread_ms) + Math.min(wish_ms, MAX_DELAY_MS);
    this.attempt += 1;
    this.retryAt = performance.now() + wait_ms;
    this._setState("waiting", { ...detail, wait_ms });
    // The worker ticks once a second; short waits should not round up to one.
    setTimeout(() => this._tick(), wait_ms + 5);
  }

  /** Forget the socket: its later events are ignored, and everybody who waits on it is told. */
  _abandon(closeCode) {
    const socket = this.socket;
    this.socket = null;
    this.helloError = null;
    this.beatSentAt = 0;
    if (socket && closeCode !== null) socket.close(closeCode);
    const waiting = [...this.waiting.values()];
    this.waiting.clear();
    if (this.state === "open") this.state = "waiting";
    for (const asked of waiting) asked.reject(new CommandError("disconnected", "The connection was lost."));
  }

  _setState(state, detail = {}) {
    this.state = state;
    this.onstate(state, detail);
  }

  _startTicker() {
    const tick = () => this._tick();
    try {
      const worker = new Worker("/js/ticker.js");
      worker.onmessage = tick;
      worker.onerror = () => setInterval(tick, 1000);
    } catch {
      setInterval(tick, 1000);
    }
  }
}
