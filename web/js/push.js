// Push to this browser: the service worker, its subscription, and what it has to tell.
//
// The worker has no log-in. What was clicked or put away there lies in its database (IndexedDB) until a page takes it;
// a page that is open is told at once.

import { deviceName } from "./session.js";

const KEY = "hubbub.push"; // whose subscription it is: {user_id, device_key, endpoint}
const WORKER = "/sw.js";

export function isPushSupported() {
  return Boolean(navigator.serviceWorker && window.PushManager && window.Notification);
}

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEY) || "null") || {};
  } catch {
    return {};
  }
}

/** Forget the subscription of who was signed in: the next one must not get what is not for them. */
export async function dropPush() {
  const was = kept();
  localStorage.removeItem(KEY);
  if (!navigator.serviceWorker || !was.endpoint) return;
  const registration = await navigator.serviceWorker.getRegistration("/");
  if (!registration) return;
  registration.active?.postMessage({ hubbub: "close", ids: null });
  await (await registration.pushManager.getSubscription())?.unsubscribe();
}

export class Push {
  /** `onmarks(marks)`: [{notification_id, mark}] that the worker has kept for a page. */
  constructor(client, { onmarks }) {
    Object.assign(this, { client, onmarks });
    this.user_id = client.session.user.user_id;
    this.isBusy = false;
    this.problem = "";
    this._onmessage = (event) => this._heard(event.data || {});
    navigator.serviceWorker?.addEventListener("message", this._onmessage);
  }

  close() {
    navigator.serviceWorker?.removeEventListener("message", this._onmessage);
  }

  get isOn() {
    const { user_id, endpoint } = kept();
    return user_id === this.user_id && Boolean(endpoint);
  }

  /** Our key among the devices of the list. */
  get device_key() {
    return this.isOn ? kept().device_key : "";
  }

  /** "": it can be turned on; else why not. */
  get obstacle() {
    if (!isPushSupported()) return window.isSecureContext ? "This browser cannot be pushed to." : "Push needs a page that came over https.";
    if (Notification.permission === "denied") return "Notifications of this page are blocked in the browser's settings.";
    return "";
  }

  async welcomed() {
    await this._takeMarks();
    if (this.isOn && !this.isChecked) await this.check();
  }

  /** After a start: tokens change, so the address is told anew; one that is gone is made again. */
  async check() {
    try {
      if (!isPushSupported() || Notification.permission !== "granted") return await this.disable();
      this.isChecked = true;
      const registration = await navigator.serviceWorker.register(WORKER);
      const subscription = (await registration.pushManager.getSubscription()) || (await this._subscribe(registration));
      await this._tell(subscription);
    } catch (error) {
      this.isChecked = false;
      if (error.code !== "disconnected") console.warn("push is not up to date", error.code || error.name);
    }
    return undefined;
  }

  /** Ask the person, subscribe, and tell the server. For a click: browsers ask for nothing else. */
  enable() {
    return this._alone(async () => {
      const permission = await Notification.requestPermission();
      if (permission !== "granted") {
        throw new Error(this.obstacle || "Notifications were not allowed.");
      }
      await navigator.serviceWorker.register(WORKER);
      await this._tell(await this._subscribe(await navigator.serviceWorker.ready));
      this.isChecked = true;
    });
  }

  disable() {
    return this._alone(async () => {
      const { device_key } = kept();
      await dropPush();
      if (device_key) await this.client.ask({ type: "unregister_push", device_key }).catch((error) => {
        if (error.code !== "device_not_found") throw error;
      });
    });
  }

  async _alone(work) {
    if (this.isBusy) return;
    this.isBusy = true;
    this.problem = "";
    this.client.onchange("push");
    try {
      await work();
    } catch (error) {
      this.problem = error.message || error.code;
      throw error;
    } finally {
      this.isBusy = false;
      this.client.onchange("push");
    }
  }

  async _subscribe(registration) {
    const { vapid_public_key = "" } = await this.client.ask({ type: "get_preferences" });
    if (!vapid_public_key) throw new Error("This server does not push to browsers.");
    const options = { userVisibleOnly: true, applicationServerKey: bytesOf(vapid_public_key) };
    try {
      return await registration.pushManager.subscribe(options);
    } catch (error) {
      if (error.name !== "InvalidStateError") throw error;
      // Subscribed with the key that the server had before: one of another key takes its place.
      await (await registration.pushManager.getSubscription())?.unsubscribe();
      return registration.pushManager.subscribe(options);
    }
  }

  async _tell(subscription) {
    const { endpoint, keys = {} } = subscription.toJSON();
    const was = kept();
    const { items = [] } = await this.client.ask({
      type: "register_push", channel: "webpush", address: endpoint, keys: { p256dh: keys.p256dh, auth: keys.auth }, name: deviceName(),
    });
    // The list masks addresses; ours is the one that was registered last.
    const mine = items.filter((item) => item.channel === "webpush" && item.address.endsWith(endpoint.slice(-4)))
      .sort((one, other) => (other.registered_at_ms || 0) - (one.registered_at_ms || 0))[0];
    localStorage.setItem(KEY, JSON.stringify({ user_id: this.user_id, endpoint, device_key: mine ? mine.device_key : "" }));
    if (was.user_id === this.user_id && was.device_key && mine && was.device_key !== mine.device_key) {
      await this.client.ask({ type: "unregister_push", device_key: was.device_key }).catch(() => {}); // gone already
    }
    this.client.onchange("push");
  }

  // -- the worker -----------------------------------------------------------------------------------

  _heard({ hubbub, url = "" }) {
    if (hubbub === "marks") this._takeMarks();
    else if (hubbub === "subscription") this.check();
    else if (hubbub === "open" && url) this.client.onchange("open", url);
  }

  /** Take what the worker has kept. It is in the page's own queue before it leaves the worker's. */
  async _takeMarks() {
    if (!navigator.serviceWorker || !this.isWorkerKnown && !(await navigator.serviceWorker.getRegistration("/"))) return;
    this.isWorkerKnown = true;
    try {
      const base = await openBase();
      const marks = await asked(base.transaction("marks").objectStore("marks").getAll());
      if (marks.length) {
        this.onmarks(marks);
        const store = base.transaction("marks", "readwrite").objectStore("marks");
        for (const { number } of marks) store.delete(number);
      }
      base.close();
    } catch (error) {
      console.warn("the worker's marks could not be read", error.name);
    }
  }

  /** Put notifications away that the system still shows of these; null: of all. */
  async closeShown(ids) {
    if (!this.isOn || !navigator.serviceWorker) return;
    const registration = await navigator.serviceWorker.getRegistration("/");
    registration?.active?.postMessage({ hubbub: "close", ids });
  }
}

/** The worker's database; the same shape as in sw.js. */
function openBase() {
  const request = indexedDB.open("hubbub", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("marks", { keyPath: "number", autoIncrement: true });
  return asked(request);
}

function asked(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Of base64url, as VAPID keys are written (RFC 8292 section 3.2). */
export function bytesOf(text) {
  const padded = text.replace(/-/g, "+").replace(/_/g, "/") + "=".repeat((4 - (text.length % 4)) % 4);
  return Uint8Array.from(atob(padded), (char) => char.charCodeAt(0));
}
