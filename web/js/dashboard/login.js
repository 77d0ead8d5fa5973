// Log in: as an app with its key and secret, or as an operator with the admin token.

import { fill, h } from "../dom.js";
import { Api } from "./api.js";

/** Show the form in `root`. `onlogin(login, dashboard)` once the server has taken it. `note` says why. */
export function showLogin(root, { onlogin, note = "" }) {
  let kind = "app";
  const key = field("app-key", { autocomplete: "username", spellcheck: "false", autocapitalize: "none" });
  const secret = field("app-secret", { type: "password", autocomplete: "off" });
  const token = field("admin-token", { type: "password", autocomplete: "off" });
  const message = h("p", { class: "form-message", role: "alert", text: note });
  const submit = h("button", { class: "button primary wide", type: "submit", text: "Show the dashboard" });
  const ofApp = h("div", {}, row("app-key", "App key", key), row("app-secret", "App secret", secret));
  const ofOperator = h("div", {}, row("admin-token", "Admin token", token),
    h("p", { class: "hint", text: "On the server's own machine, opened as 127.0.0.1, none is needed." }));
  const choices = ["app", "operator"].map((value) => {
    const input = h("input", { type: "radio", name: "kind", value, checked: value === kind });
    input.addEventListener("change", () => {
      kind = value;
      render();
    });
    return h("label", { class: "choice" }, input, value === "app" ? "One app" : "All apps (operator)");
  });
  const render = () => {
    ofApp.hidden = kind !== "app";
    ofOperator.hidden = kind === "app";
  };

  const form = h(
    "form", { class: "auth-card", novalidate: true },
    h("img", { src: "/icon.svg", alt: "", class: "auth-logo" }),
    h("h1", { text: "Notifications" }),
    h("fieldset", { class: "choices" }, h("legend", { text: "What do you want to see?" }), choices),
    ofApp, ofOperator, message, submit,
    h("p", { class: "auth-swap", text: "What you enter stays in this tab, and is forgotten when it is closed." }),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const isApp = kind === "app";
    const login = isApp
      ? { kind, key: key.value.trim(), secret: secret.value.trim() }
      : { kind, token: token.value.trim() };
    if (isApp && (!login.key || !login.secret)) {
      message.textContent = "Enter the app's key and its secret.";
      (login.key ? secret : key).focus();
      return;
    }
    submit.disabled = true;
    message.textContent = "";
    try {
      onlogin(login, await new Api(login).dashboard());
    } catch (error) {
      const isWrong = error.status === 401 || error.status === 403;
      message.textContent = isWrong ? wrong(isApp, login) : error.message;
    } finally {
      submit.disabled = false;
    }
  });
  render();
  fill(root, h("main", { class: "auth" }, form));
  key.focus();
}

function wrong(isApp, login) {
  if (isApp) return "The app key or its secret is wrong.";
  return login.token ? "The admin token is wrong, or this server has none." : "From here the admin token is needed.";
}

function field(id, attributes) {
  return h("input", { class: "field", id, name: id, maxlength: "500", ...attributes });
}

function row(id, label, input) {
  return h("div", { class: "form-row" }, h("label", { for: id, text: label }), input);
}
