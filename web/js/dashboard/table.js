// Tables that are drawn again every 2 s without moving the focus or what is selected.

import { fill, h, reconcile } from "../dom.js";

/**
 * Make a section with one table. `columns`: [{title, unit, isNumber, of: (line) => text or Node}]; the first
 * one heads its row. `empty` is what stands there without lines. Returns {node, show(lines, note)}.
 */
export function tableSection({ id, title, hint, columns, empty, keyOf, depsOf }) {
  const body = h("tbody");
  const head = h("tr", {}, columns.map((column) => h(
    "th", { scope: "col", class: column.isNumber ? "number" : "" },
    column.title, column.unit ? h("span", { class: "unit", text: ` ${column.unit}` }) : null,
  )));
  const table = h("table", { "aria-labelledby": `${id}-title` }, h("thead", {}, head), body);
  const scroller = h("div", { class: "table-scroll", role: "group", tabindex: "0", "aria-labelledby": `${id}-title` }, table);
  const nothing = h("p", { class: "empty-line", text: empty });
  const note = h("p", { class: "note" });
  const node = h(
    "section", { class: "card", id },
    h("h2", { id: `${id}-title`, text: title }),
    hint ? h("p", { class: "card-hint", text: hint }) : null,
    scroller, nothing, note,
  );
  return {
    node,
    show(lines, told = "") {
      scroller.hidden = lines.length === 0;
      nothing.hidden = lines.length > 0;
      if (note.textContent !== told) note.textContent = told;
      note.hidden = !told;
      reconcile(body, lines.map((line) => ({
        key: keyOf(line),
        deps: [depsOf ? depsOf(line) : JSON.stringify(line)],
        render: () => h("tr", {}, columns.map((column, index) => cell(column, line, index === 0))),
      })));
    },
  };
}

function cell(column, line, isHead) {
  const content = column.of(line);
  const props = { class: column.isNumber ? "number" : "" };
  return isHead ? h("th", { scope: "row", ...props }, content) : h("td", props, content);
}

/** A word with a colour; the word alone says it all. */
export function pill(word, kind = "") {
  return h("span", { class: `pill ${kind}`.trim(), text: word });
}

/** One large figure with its name, and something small below it. */
export function tile(name) {
  const figure = h("dd", { class: "figure" });
  const more = h("dd", { class: "more" });
  const node = h("div", { class: "tile" }, h("dt", { text: name }), figure, more);
  return {
    node,
    show(text, detail = "", kind = "") {
      if (figure.textContent !== text) figure.textContent = text;
      node.className = `tile ${kind}`.trim();
      if (detail instanceof Node) fill(more, detail);
      else if (more.textContent !== detail) more.textContent = detail;
    },
  };
}
