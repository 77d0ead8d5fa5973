// What stands where an address leads nowhere.

import { h } from "../dom.js";

export class NothingPage {
  constructor() {
    this.title = "Nothing here";
    this.node = h("main", { class: "feed", "aria-label": this.title },
      h("div", { class: "feed-scroller empty", tabindex: "0", role: "region", "aria-label": this.title },
        h("img", { src: "/icon.svg", alt: "" }), h("h1", { text: this.title }), h("p", { text: "This address leads to no page. It may be mistyped or cut off." }),
        h("a", { class: "button primary", href: "#feed", text: "Go to the feed" })));
  }

  opened() {}

  close() {}

  render() {}
}
