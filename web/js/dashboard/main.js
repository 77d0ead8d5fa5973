// The notification dashboard: who is there, and a look every 2 s for as long as the page can be seen.

import { announce, fill, h } from "../dom.js";
import { Api, forgetLogin, storedLogin, storeLogin } from "./api.js";
import { makeBoard } from "./board.js";
import { showLogin } from "./login.js";

const EVERY_MS = 2000;
const root = document.getElementById("app");
let running = null;

/** Show the dashboard until somebody logs out. `first` is what the server has told already, or null. */
function run(login, first) {
  const api = new Api(login);
  let timer = 0;
  let isLooking = false;
  let isEnded = false;
  let isPaused = false;
  let isFailing = false;

  const show = (told) => {
    board.show(told);
    if (isFailing) announce("The dashboard is up to date again.");
    isFailing = false;
  };

  async function look() {
    clearTimeout(timer);
    if (isLooking || isEnded) return;
    isLooking = true;
    try {
      const told = await api.dashboard();
      if (!isEnded) show(told);
    } catch (error) {
      if (isEnded) return;
      if (error.status === 401 || error.status === 403) {
        end();
        forgetLogin();
        showLogin(root, { onlogin: begin, note: "You were logged out: the server does not take this log-in any more." });
        return;
      }
      board.fail(`${error.message} What you see is from before.`);
      isFailing = true;
    } finally {
      isLooking = false;
      goOn();
    }
  }

  function goOn() {
    clearTimeout(timer);
    if (!isEnded && !isPaused && document.visibilityState === "visible") timer = setTimeout(look, EVERY_MS);
  }

  const onvisible = () => (document.visibilityState === "visible" && !isPaused ? look() : clearTimeout(timer));
  document.addEventListener("visibilitychange", onvisible);

  function end() {
    isEnded = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", onvisible);
    running = null;
  }

  /** Do something, say how it went, and look again. */
  async function act(doing, done) {
    try {
      toast(done(await doing()));
    } catch (error) {
      toast(error.message, true);
    }
    look();
  }

  const board = makeBoard(root, {
    isApp: api.isApp,
    does: {
      api: () => api,
      refresh: look,
      toggle() {
        isPaused = !isPaused;
        board.isPaused(isPaused);
        announce(isPaused ? "Updates are paused." : "Updates go on.");
        if (isPaused) clearTimeout(timer);
        else look();
      },
      logOut() {
        end();
        forgetLogin();
        showLogin(root, { onlogin: begin });
      },
      setPaused(line, wanted) {
        const said = wanted ? `${line.provider_id} is paused: what goes by it waits.` : `${line.provider_id} is used again.`;
        act(() => api.setPaused(line.provider_id, wanted), () => said);
      },
      redrive(line) {
        act(() => api.redrive(line.channel, line.code), ({ count }) => `${count} ${count === 1 ? "delivery is" : "deliveries are"} tried again.`);
      },
    },
  });
  board.isPaused(false);
  running = { end };
  if (first) {
    show(first);
    goOn();
  } else {
    look();
  }
}

/** Somebody has logged in. */
function begin(login, told) {
  storeLogin(login);
  run(login, told);
}

let fading = 0;

function toast(text, isError = false) {
  announce(text);
  document.querySelector(".toasts")?.remove();
  clearTimeout(fading);
  document.body.append(h("div", { class: "toasts" }, h("div", { class: `toast ${isError ? "toast-error" : ""}`, text })));
  fading = setTimeout(() => document.querySelector(".toasts")?.remove(), 6000);
}

/** Operators on this machine need no log-in; everybody else gets the form. */
async function start() {
  const login = storedLogin();
  const asked = login || { kind: "operator", token: "" };
  try {
    run(asked, await new Api(asked).dashboard());
  } catch (error) {
    const isRefused = error.status === 401 || error.status === 403;
    if (isRefused) {
      forgetLogin();
      showLogin(root, { onlogin: begin, note: login ? "The log-in of this tab is not taken any more." : "" });
      return;
    }
    const again = h("button", { type: "button", class: "button primary", onclick: restart, text: "Try again" });
    fill(root, h("main", { class: "boot" }, h("p", { role: "alert", text: error.message || "The server has failed." }), again));
    again.focus();
  }
}

function restart() {
  running?.end();
  fill(root, h("p", { class: "boot", role: "status", text: "Opening the dashboard…" }));
  start();
}

start();
