// The names that are offered while somebody types "@" and the beginning of one.

import { fill, h } from "../dom.js";
import { personAvatar } from "./parts.js";

const MAX_SHOWN = 6;

export class Suggestions {
  /** `find(typed)` gives profiles, at once or later; `onpick()` is called when a name was put into the text. */
  constructor(app, area, { find, onpick }) {
    Object.assign(this, { app, area, find, onpick });
    this.node = h("ul", { class: "suggestions", role: "listbox", "aria-label": "People", hidden: true });
    this.asked = 0;
    // Late, so that a click on a suggestion comes first; and not when the person is back by then.
    area.addEventListener("blur", () => setTimeout(() => {
      if (document.activeElement !== area) this.node.hidden = true;
    }, 150));
  }

  /** The text or the cursor has moved. */
  async update() {
    const mine = (this.asked += 1);
    const match = /(?:^|[\s(])@([\p{L}\p{N}_.-]{0,32})$/u.exec(this.area.value.slice(0, this.area.selectionStart));
    const answer = match ? this.find(match[1].toLowerCase()) : [];
    const found = (answer instanceof Promise ? await answer : answer).slice(0, MAX_SHOWN);
    if (mine !== this.asked) return;
    this.node.hidden = !found.length;
    this.found = found;
    this.chosen = 0;
    fill(this.node, found.map((profile, at) => h("li", {
      class: "suggestion", role: "option", "aria-selected": String(at === 0),
      onpointerdown: (event) => {
        event.preventDefault();
        this._complete(profile);
      },
    }, personAvatar(this.app, profile.user_id, { size: "small" }), h("span", { text: profile.name }), h("span", { class: "person-sub", text: `@${profile.username}` }))));
  }

  /** A key was pressed in the text; tells whether it was meant for the list. */
  key(event) {
    if (this.node.hidden) return false;
    if (event.key === "Escape") {
      event.stopPropagation();
      this.node.hidden = true;
    } else if ((event.key === "Enter" && !event.ctrlKey && !event.metaKey) || event.key === "Tab") {
      event.preventDefault();
      this._complete(this.found[this.chosen]);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.chosen = (this.chosen + step + this.found.length) % this.found.length;
      [...this.node.children].forEach((node, at) => node.setAttribute("aria-selected", String(at === this.chosen)));
    } else return false;
    return true;
  }

  _complete(profile) {
    const at = this.area.selectionStart;
    const start = this.area.value.lastIndexOf("@", at - 1);
    this.area.setRangeText(`@${profile.username} `, start, at, "end");
    this.node.hidden = true;
    this.onpick();
  }
}
