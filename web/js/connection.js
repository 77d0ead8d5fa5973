// One WebSocket to the server that mends itself: hello, heartbeats, jittered reconnects, answers by id.
//
// States: "connecting" -> "open" (welcomed) -> "waiting" (will try again) -> "connecting" ..., and "stopped" for
// good (signed out, revoked, refused). It knows nothing of conversations: whoever owns it hands in what hello and
// heartbeats say, and gets welcome and every event.

export const FIRST_DELAY_MS = 300;
export const MAX_DELAY_MS = 20_000; // a node's restart must not bring everybody back within one second
const ANSWER_TIMEOUT_MS = 20_000; // longer than any answer of a healthy server
const SILENCE_TIMEOUT_MS = 12_000; // a heartbeat unanswered for so long: the network went away without a word
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
   * `makeHello()` gives the fields of hello, `makeHeartbeat()` those of a heartbeat; `onwelcome`, `onevent`,
   * `onstate(state, detail)` and `onreplaced` are called as things happen. `makeHello` may return null: stop.
   */
  constructor({ url, makeHello, makeHeartbeat, onwelcome, onevent, onstate, onreplaced }) {
    Object.assign(this, { url, makeHello, makeHeartbeat, onwelcome, onevent, onstate, onreplaced });
    this.state = "stopped";
    this.socket = null;
    this.attempt = 0;
    this.nextId = 1;
    this.waiting = new Map(); // id -> {resolve, reject, deadline}
    this.nextBeatAt = Infinity;
    this.beatSentAt = 0;
    this.intervalMs = 30_000;
    this.retryAt = Infinity;
    this._startTicker();
    window.addEventListener("online", () => this.retryNow());
    window.addEventListener("offline", () => this._drop("offline"));
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
      this.waiting.set(id, { resolve, reject, deadline: performance.now() + ANSWER_TIMEOUT_MS });
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
    const socket = new WebSocket(this.url, "hubbub.json");
    this.socket = socket;
    this.openBy = performance.now() + SILENCE_TIMEOUT_MS;
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
    let frame;
    try {
      frame = JSON.parse(data);
    } catch {
      return; // not our server's words; its heartbeat will tell whether anybody is there
    }
    if (frame.type === "welcome") {
      this.attempt = 0;
      this.intervalMs = (frame.heartbeat_interval_s || 30) * 1000;
      this._planBeat();
      this._setState("open");
      this.onwelcome(frame);
      return;
    }
    if (!frame.id) {
      if (frame.type === "error") return; // nobody asked: the close that follows says what to do
      if (frame.type === "reconnect") this._reconnectWithin((frame.within_s || 1) * 1000);
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
    for (const [id, asked] of this.waiting) {
      if (asked.deadline > now) continue;
      this.waiting.delete(id);
      asked.reject(new CommandError("timeout", "No answer came in time.", 1));
    }
    if (this.beatSentAt && now - this.beatSentAt > SILENCE_TIMEOUT_MS) this._drop("silence");
    else if (!this.beatSentAt && now >= this.nextBeatAt) this._beat(now);
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
    this._abandon(1000);
    this._wait({ reason });
  }

  _closed(code, reason) {
    const error = this.helloError;
    this._abandon(null);
    if (code === CLOSE_REPLACED && this.onreplaced()) return this._wait({ code, reason });
    if (!mayReconnect(code)) return this._setState("stopped", { code, reason, error });
    return this._wait({ code, reason, error });
  }

  _wait(detail) {
    const wait_ms = delayMs(this.attempt);
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
