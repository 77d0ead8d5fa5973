// The service worker: shows pushes, and tells what became of them. It fetches no pages and caches nothing.
//
// It has no log-in. What was clicked or put away is kept in its database first, then told to a page that is open;
// where none is, by the signed link that a push may carry; else by the page that opens next (js/push.js).

const ICON = "/icon-192.png";
const BADGE = "/badge-96.png"; // Android draws its outline alone

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// -- pushes -------------------------------------------------------------------------------------------

self.addEventListener("push", (event) => event.waitUntil(inTurn(() => show(read(event.data)))));

// Whoever asks Chromium for the notifications while one is just being shown makes it forget that one: it stays on
// the screen, and a click on it does nothing. So one thing is done at a time, and pages ask the worker.
let last = Promise.resolve();

function inTurn(work) {
  last = last.then(work, work);
  return last;
}

/** What the server wrote (server/providers/webpush.py); whatever came, something has to be shown. */
function read(data) {
  try {
    const payload = data.json();
    if (payload && typeof payload === "object") return payload;
  } catch {
    // an empty push, or not ours
  }
  return {};
}

async function show(payload) {
  const { title = "", body = "", notification_id = 0, delivery_id = "", data = {} } = payload;
  // The same delivery may come twice, as may one that tells of more now: either takes the place of the one before.
  const tag = payload.tag || (notification_id ? `hubbub ${notification_id}` : "");
  const before = tag ? await self.registration.getNotifications({ tag }) : [];
  const isRepeated = before.some((shown) => shown.data && delivery_id && shown.data.delivery_id === delivery_id);
  const silent = Boolean(payload.silent) || isRepeated || (await isLookedAt());
  const options = {
    body,
    icon: payload.icon || ICON,
    badge: BADGE,
    tag,
    renotify: Boolean(tag) && before.length > 0 && !silent, // a new thing rings again, a repeated one does not
    silent,
    data: { ...data, url: payload.url || "", notification_id, delivery_id, click_url: payload.click_url || data.click_url || "" },
  };
  if (payload.image) options.image = payload.image;
  if (Number.isInteger(payload.badge) && self.navigator.setAppBadge) {
    await (payload.badge ? self.navigator.setAppBadge(payload.badge) : self.navigator.clearAppBadge()).catch(() => {});
  }
  await self.registration.showNotification(title || "hubbub", options);
}

// A page tells what has been read or put away there: [ids], or null for all.
self.addEventListener("message", (event) => {
  if (event.data && event.data.hubbub === "close") event.waitUntil(inTurn(() => close(event.data.ids)));
});

async function close(ids) {
  for (const shown of await self.registration.getNotifications()) {
    const id = shown.data && shown.data.notification_id;
    if (!ids || ids.includes(id)) shown.close();
  }
}

function pages() {
  return self.clients.matchAll({ type: "window", includeUncontrolled: true });
}

/** Whoever looks at the page sees it there: then it makes no sound. */
async function isLookedAt() {
  return (await pages()).some((page) => page.visibilityState === "visible" && page.focused);
}

// -- what people do with them -------------------------------------------------------------------------

self.addEventListener("notificationclick", (event) => {
  const { data = {} } = event.notification;
  event.notification.close();
  event.waitUntil(Promise.all([go(data), tell(data, "clicked")]));
});

self.addEventListener("notificationclose", (event) => {
  event.waitUntil(tell(event.notification.data || {}, "dismissed"));
});

/** To a page that is open, or to a new one. Only http and https addresses are opened. */
async function go({ url = "" }) {
  let target = null;
  try {
    target = new URL(url, self.location.origin);
  } catch {
    // no address: the page itself
  }
  if (!target || !/^https?:$/.test(target.protocol)) target = new URL("/", self.location.origin);
  if (target.origin === self.location.origin) {
    const open = (await pages()).filter((page) => new URL(page.url).pathname === "/");
    const page = open.find((one) => one.focused) || open.find((one) => one.visibilityState === "visible") || open[0];
    if (page) {
      await page.focus().catch(() => {}); // only a click that is fresh may take the focus
      if (url) page.postMessage({ hubbub: "open", url: target.href });
      return;
    }
  }
  await self.clients.openWindow(target.href);
}

async function tell({ notification_id = 0, click_url = "" }, mark) {
  if (!notification_id) return;
  const number = await keep({ notification_id, mark, at_ms: Date.now() });
  const open = await pages();
  for (const page of open) page.postMessage({ hubbub: "marks" });
  if (open.length || mark !== "clicked" || !click_url) return;
  try {
    // The link leads on to the address; that it was followed is all that is wanted.
    await fetch(click_url, { redirect: "manual", mode: "no-cors", credentials: "omit", keepalive: true });
    await forget(number);
  } catch {
    // the page that opens next tells
  }
}

// -- a subscription that the browser has made anew ----------------------------------------------------

self.addEventListener("pushsubscriptionchange", (event) => {
  event.waitUntil(resubscribe(event));
});

async function resubscribe({ oldSubscription, newSubscription }) {
  const known = newSubscription || (await self.registration.pushManager.getSubscription());
  if (!known && oldSubscription) await self.registration.pushManager.subscribe(oldSubscription.options);
  // Only a page can tell the server: one that is open, or the next one as it starts.
  for (const page of await pages()) page.postMessage({ hubbub: "subscription" });
}

// -- the database; the same shape as in js/push.js ----------------------------------------------------

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

async function keep(mark) {
  const base = await openBase();
  const number = await asked(base.transaction("marks", "readwrite").objectStore("marks").add(mark));
  base.close();
  return number;
}

async function forget(number) {
  const base = await openBase();
  await asked(base.transaction("marks", "readwrite").objectStore("marks").delete(number));
  base.close();
}
