// Sign up and log in.

import { logIn, signUp } from "../api.js";
import { fill, h } from "../dom.js";
import { deviceName, saveSession } from "../session.js";

const HINTS = {
  bad_credentials: "The name or the password is wrong.",
  name_taken: "Somebody has that name already. Try another one.",
};

/** Show the form in `root`; `onsession(session)` once signed in. `note` says why the person is here again. */
export function showAuth(root, { onsession, note = "" }) {
  let isNew = false;
  const username = h("input", { class: "field", name: "username", id: "username", autocomplete: "username", required: true, maxlength: "32", autocapitalize: "none", spellcheck: "false" });
  const name = h("input", { class: "field", name: "name", id: "name", autocomplete: "name", maxlength: "64" });
  const password = h("input", { class: "field", name: "password", id: "password", type: "password", required: true });
  const message = h("p", { class: "form-message", role: "alert", text: note });
  const submit = h("button", { class: "button primary wide", type: "submit" });
  const nameRow = h("div", { class: "form-row" }, h("label", { for: "name", text: "Display name (optional)" }), name);
  const heading = h("h1", {});
  const swap = h("button", { class: "link", type: "button" });
  const swapText = h("span");

  const render = () => {
    heading.textContent = isNew ? "Create your account" : "Welcome back";
    submit.textContent = isNew ? "Sign up" : "Log in";
    swapText.textContent = isNew ? "Have an account? " : "New here? ";
    swap.textContent = isNew ? "Log in" : "Create an account";
    nameRow.hidden = !isNew;
    password.autocomplete = isNew ? "new-password" : "current-password";
  };
  swap.addEventListener("click", () => {
    isNew = !isNew;
    message.textContent = "";
    render();
    username.focus();
  });

  const form = h(
    "form",
    { class: "auth-card", novalidate: true },
    h("img", { src: "/icon.svg", alt: "", class: "auth-logo" }),
    heading,
    h("div", { class: "form-row" }, h("label", { for: "username", text: "User name" }), username),
    nameRow,
    h("div", { class: "form-row" }, h("label", { for: "password", text: "Password" }), password),
    message,
    submit,
    h("p", { class: "auth-swap" }, swapText, swap),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!username.value.trim() || !password.value) {
      message.textContent = "Enter a user name and a password.";
      (username.value.trim() ? password : username).focus();
      return;
    }
    submit.disabled = true;
    message.textContent = "";
    const fields = { username: username.value.trim(), password: password.value, device_name: deviceName() };
    try {
      const answer = await (isNew ? signUp({ ...fields, name: name.value.trim() }) : logIn(fields));
      onsession(saveSession(answer));
    } catch (error) {
      const later = error.retry_after_s ? ` Try again in ${Math.ceil(error.retry_after_s)} s.` : "";
      message.textContent = (HINTS[error.code] || error.message) + later;
    } finally {
      submit.disabled = false;
    }
  });
  render();
  fill(root, h("main", { class: "auth" }, form));
  username.focus();
}
