// The HTTP side of the server: accounts and files. Everything else goes over the WebSocket.

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
  let response;
  try {
    response = await fetch(path, { method, headers, body: json === undefined ? undefined : JSON.stringify(json) });
  } catch {
    throw new ApiError("unreachable", "The server cannot be reached. Check the connection and try again.");
  }
  const body = await response.json().catch(() => null);
  if (!response.ok) throw errorOf(response.status, body);
  return body || {};
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
 * XMLHttpRequest because fetch cannot tell how much of a body has been sent. Aborting `signal` rejects.
 */
export function upload(token, file, { onprogress = () => {}, signal = null } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/v1/files?name=${encodeURIComponent(file.name || "file")}`);
    request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onprogress(event.loaded / event.total);
    request.onload = () => {
      if (request.status >= 200 && request.status < 300 && request.response) resolve(request.response);
      else reject(errorOf(request.status, request.response));
    };
    request.onerror = () => reject(new ApiError("unreachable", "The upload broke off. Try again."));
    request.onabort = () => reject(new ApiError("aborted", "The upload was stopped."));
    if (signal) signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

// A sig opens all files of the app for one to two hours and stays the same for one, so that the browser caches.
let grant = null;
let grantToken = "";

/** The address of a file for <img src> and links, where no header can be sent. */
export async function fileUrl(token, file_id) {
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
