// Who is signed in here, kept where each part belongs: the log-in in localStorage, shared by all tabs; the device
// in sessionStorage, because each tab is a device of its own with its own cursors.

const KEY = "hubbub.session";
const DEVICE_KEY = "hubbub.device";

export function loadSession() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) || "null");
    return kept && kept.token && kept.user && kept.user.user_id ? makeSession(kept) : null;
  } catch {
    return null;
  }
}

export function saveSession({ token, user, session_id }) {
  localStorage.setItem(KEY, JSON.stringify({ token, user, session_id }));
  return loadSession();
}

export function clearSession() {
  localStorage.removeItem(KEY);
  for (const key of Object.keys(localStorage)) if (key.startsWith("hubbub.outbox.")) localStorage.removeItem(key);
  for (const key of Object.keys(sessionStorage)) if (key.startsWith("hubbub.draft.")) sessionStorage.removeItem(key);
}

/** Call back when another tab signs in or out. */
export function onSessionChanged(callback) {
  window.addEventListener("storage", (event) => {
    if (event.key === KEY || event.key === null) callback(loadSession());
  });
}

function makeSession(kept) {
  return {
    ...kept,
    device_id() {
      let id = sessionStorage.getItem(DEVICE_KEY);
      if (!id) sessionStorage.setItem(DEVICE_KEY, (id = newDeviceId()));
      return id;
    },
    /** A duplicated tab copies its sessionStorage, so two tabs are one device: the one that is thrown out changes. */
    renewDevice() {
      sessionStorage.setItem(DEVICE_KEY, newDeviceId());
      return true;
    },
  };
}

function newDeviceId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `web-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** What the list of log-ins calls this browser. */
export function deviceName() {
  const agent = navigator.userAgent;
  const browser = [["Edg/", "Edge"], ["Firefox/", "Firefox"], ["Chrome/", "Chrome"], ["Safari/", "Safari"]];
  const system = [["Android", "Android"], ["iPhone", "iPhone"], ["iPad", "iPad"], ["Windows", "Windows"], ["Mac OS", "Mac"], ["Linux", "Linux"]];
  const name = (list, otherwise) => (list.find(([mark]) => agent.includes(mark)) || ["", otherwise])[1];
  return `${name(browser, "Browser")} on ${name(system, "a computer")}`;
}
