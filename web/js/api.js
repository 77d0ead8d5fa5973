// The HTTP side of the server: accounts and files. Everything else goes over the WebSocket.
//
// The page's own origin is asked first; where nobody answers there, another node of the cluster, once one is known.

const PATIENCE_MS = 15_000; // a node that has not answered by then is not waited for where there is another one
let nodes = null;

/** From now on these (nodes.js) are the places to ask. */
export function useNodes(known) {
  nodes = known;
}

function bases() {
  return nodes ? nodes.bases() : [""];
}

export class ApiError extends Error {
  /** `code` is stable (protocol/errors.py); `message` is for a person. */
  constructor(code, message, { status = 0, retry_after_s = null } = {}) {
    super(message || code);
    this.code = code;
    this.status = status;
    this.retry_after_s = retry_after_s;
  }
}

async function call(method, path, { token = "", json = undefined } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const body = json === undefined ? undefined : JSON.stringify(json);
  let last = new ApiError("unreachable", "The server cannot be reached. Check the connection and try again.");
  const places = bases();
  for (const base of places) {
    let response;
    try {
      const signal = places.length > 1 ? AbortSignal.timeout(PATIENCE_MS) : undefined;
      response = await fetch(base + path, { method, headers, body, signal });
    } catch {
      nodes?.httpFailed(base);
      continue;
    }
    const answer = await response.json().catch(() => null);
    if (response.ok) {
      nodes?.httpReached(base);
      return answer || {};
    }
    last = errorOf(response.status, answer);
    if (response.status !== 503) break; // it drains, or has too much to do: the next one may not
  }
  throw last;
}

function errorOf(status, body) {
  const told = body && typeof body === "object" ? body : {};
  return new ApiError(String(told.code || `http_${status}`), String(told.message || told.detail || ""), {
    status,
    retry_after_s: typeof told.retry_after_s === "number" ? told.retry_after_s : null,
  });
}

export function signUp({ username, password, name, device_name }) {
  const json = { username, password, device_name };
  if (name) json.name = name;
  return call("POST", "/v1/signup", { json });
}

export function logIn({ username, password, device_name }) {
  return call("POST", "/v1/login", { json: { username, password, device_name } });
}

export function logOut(token) {
  return call("POST", "/v1/logout", { token });
}

/**
 * Upload one file; `onprogress` gets a share from 0 to 1. Resolves with the stored file's record.
 * Aborting `signal` rejects. An upload that arrives at two nodes is one file.
 */
export async function upload(token, file, { onprogress = () => {}, signal = null } = {}) {
  const places = bases();
  let last;
  for (const base of places) {
    try {
      const record = await uploadTo(base, token, file, { onprogress, signal, isOnly: places.length === 1 });
      nodes?.httpReached(base);
      return record;
    } catch (error) {
      last = error;
      if (error.code === "unreachable") nodes?.httpFailed(base);
      else if (error.status !== 503) throw error;
    }
  }
  throw last;
}

/** XMLHttpRequest because fetch cannot tell how much of a body has been sent. */
function uploadTo(base, token, file, { onprogress, signal, isOnly }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let timer = 0;
    let isStuck = false;
    const watch = () => {
      clearTimeout(timer);
      if (!isOnly) timer = setTimeout(() => { isStuck = true; request.abort(); }, PATIENCE_MS);
    };
    const broken = () => new ApiError("unreachable", "The upload broke off. Try again.");
    request.open("POST", `${base}/v1/files?name=${encodeURIComponent(file.name || "file")}`);
    request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.responseType = "json";
    request.upload.onprogress = (event) => {
      watch();
      if (event.lengthComputable) onprogress(event.loaded / event.total);
    };
    request.onload = () => {
      if (request.status >= 200 && request.status < 300 && request.response) resolve(request.response);
      else reject(errorOf(request.status, request.response));
    };
    request.onerror = () => reject(broken());
    request.onabort = () => reject(isStuck ? broken() : new ApiError("aborted", "The upload was stopped."));
    request.onloadend = () => clearTimeout(timer);
    if (signal) signal.addEventListener("abort", () => request.abort());
    watch();
    request.send(file);
  });
}

// A sig opens all files of the app for one to two hours and stays the same for one, so that the browser caches.
let grant = null;
let grantToken = "";

async function filePath(token, file_id) {
  if (grantToken !== token) grant = null;
  if (!grant || (await grant.catch(() => ({ expires_at_ms: 0 }))).expires_at_ms < Date.now() + 60_000) {
    grantToken = token;
    grant = call("GET", "/v1/files/sig", { token });
    grant.catch(() => {
      grant = null;
    });
  }
  const { sig } = await grant;
  return `/v1/files/${encodeURIComponent(file_id)}?sig=${encodeURIComponent(sig)}`;
}

/** Let a link lead to a file, where no header can be sent: at the moment it is used, to a node that answers. */
export function linkFile(link, token, file_id) {
  const point = () => filePath(token, file_id).then((path) => (link.href = bases()[0] + path), () => {});
  for (const name of ["pointerdown", "focus"]) link.addEventListener(name, point);
  point();
}

/** Show a file in an <img>: from another node where the page's own does not answer. `onfail` where none has it. */
export async function showFile(image, token, file_id, onfail = () => {}) {
  let path;
  try {
    path = await filePath(token, file_id);
  } catch {
    onfail();
    return;
  }
  const places = bases();
  const load = () => {
    const base = places.shift();
    // Another origin's picture needs its leave, which it gives to the pages of its own cluster.
    if (base) image.crossOrigin = "anonymous";
    else image.removeAttribute("crossorigin");
    image.src = base + path;
  };
  image.addEventListener("error", () => (places.length ? load() : onfail()));
  load();
}
