// Between chat and feed: a rail at the side, on a narrow screen a bar at the bottom.

import { drawIcon, h, setText } from "../dom.js";
import { Bell } from "./notifications.js";

export class Nav {
  constructor(app) {
    this.app = app;
    this.chatBadge = h("span", { class: "count", hidden: true });
    this.feedBadge = h("span", { class: "count count-soft", hidden: true });
    this.links = {
      feed: this._link("Feed", "feed", "#feed", this.feedBadge),
      chat: this._link("Chat", "chat", "#", this.chatBadge),
      trends: this._link("Discover", "trend", "#trends"),
      profile: this._link("Profile", "person", `#u/${app.session.user.user_id}`),
    };
    this.links.chat.addEventListener("click", (event) => {
      event.preventDefault();
      app.goChat();
    });
    this.links.feed.addEventListener("click", (event) => {
      if (app.section !== "feed" || location.hash !== "#feed") return;
      event.preventDefault();
      app.view.toTop();
    });
    this.bell = new Bell(app);
    const places = [...Object.values(this.links), this.bell.node];
    this.node = h("nav", { class: "nav", "aria-label": "Main" }, h("ul", {}, places.map((place) => h("li", {}, place))));
  }

  _link(label, icon, href, badge = null) {
    return h("a", { class: "nav-link", href }, h("span", { class: "nav-icon" }, drawIcon(icon), badge), h("span", { class: "nav-words", text: label }));
  }

  render() {
    const { store } = this.app;
    for (const [name, link] of Object.entries(this.links)) {
      if (name === this.app.section) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    this.bell.render();
    const unread = store.unreadTotal();
    this.chatBadge.hidden = !unread;
    setText(this.chatBadge, unread > 99 ? "99+" : String(unread));
    const waiting = this.app.section === "feed" ? 0 : store.feed.waiting_count;
    this.feedBadge.hidden = !waiting;
    setText(this.feedBadge, waiting > 99 ? "99+" : String(waiting));
  }
}
