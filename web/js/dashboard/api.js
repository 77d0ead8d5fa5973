// The HTTP side of the dashboard, and who is logged in: an app's developer, or an operator.
//
// What logs in is kept in sessionStorage: it is gone with the tab, and no other tab has it.

const STORED = "hubbub.dashboard";
const PATIENCE_MS = 10_000; // the server interrupts a query after 2 s

export class DashboardError extends Error {
  /** `code` is stable (protocol/errors.py); `message` is for a person; `status` 0: nobody answered. */
  constructor(code, message, status) {
    super(message || code);
    this.code = code;
    this.status = status;
  }
}

/** What was logged in with in this tab: {kind: "app", key, secret}, {kind: "operator", token}, or null. */
export function storedLogin() {
  try {
    const found = JSON.parse(sessionStorage.getItem(STORED) || "null");
    return found && (found.kind === "app" || found.kind === "operator") ? found : null;
  } catch {
    return null;
  }
}

export function storeLogin(login) {
  try {
    sessionStorage.setItem(STORED, JSON.stringify(login));
  } catch {
    // Storage is off: the log-in lasts until the page is left.
  }
}

export function forgetLogin() {
  try {
    sessionStorage.removeItem(STORED);
  } catch {
    // There is none.
  }
}

/** The calls that a log-in may make. */
export class Api {
  constructor(login) {
    this.login = login;
    this.isApp = login.kind === "app";
  }

  async call(method, path, json = undefined) {
    const headers = {};
    const token = this.isApp ? `${this.login.key}:${this.login.secret}` : this.login.token;
    if (token) headers.Authorization = `Bearer ${token}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(path, {
        method, headers, body: json === undefined ? undefined : JSON.stringify(json),
        signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store", credentials: "omit",
      });
    } catch (error) {
      if (error instanceof TypeError && headers.Authorization && !isLatin1(headers.Authorization)) {
        throw new DashboardError("bad_credentials", "Keys and tokens hold plain letters and digits only.", 401);
      }
      throw new DashboardError("unreachable", "The server cannot be reached.", 0);
    }
    const answer = await response.json().catch(() => null);
    if (response.ok) return answer;
    throw new DashboardError(answer?.code || `http_${response.status}`, answer?.message || "", response.status);
  }

  dashboard() {
    return this.call("GET", this.isApp ? "/v1/app/notify/dashboard" : "/v1/notify/dashboard");
  }

  explain(id) {
    return this.call("GET", `${this.isApp ? "/v1/notifications" : "/v1/notify/notifications"}/${id}/explain`);
  }

  redrive(channel, code) {
    return this.call("POST", "/v1/app/notify/dead_letters/redrive", { channel, code });
  }

  setPaused(providerId, isPaused) {
    const action = isPaused ? "pause" : "resume";
    return this.call("POST", `/v1/app/notify/providers/${encodeURIComponent(providerId)}/${action}`);
  }
}

function isLatin1(text) {
  return /^[\x20-\xff]*$/.test(text);
}
