// Build and reconcile DOM nodes. Data reaches the page only as text nodes and as attributes named here, never
// as markup: that is what keeps a message that looks like HTML a message.

/** Make an element. `props`: class, text, on<event> listeners, dataset, and attributes; false/null are left out. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "dataset") Object.assign(node.dataset, value);
    else if (name === "value") node.value = value;
    else if (name.startsWith("on") && typeof value === "function") node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (child === undefined || child === null || child === false) continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replace everything inside a node. */
export function fill(node, ...children) {
  node.replaceChildren();
  append(node, children);
  return node;
}

/** Set text only where it differs, so that a selection inside survives a render. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `container` match `specs`, by key, touching only what changed.
 * A spec is {key, deps: [...], render: (old) => Node}. When one of its deps is another value its node is made again,
 * or changed in place and returned: `old` is what stands there, or null.
 */
export function reconcile(container, specs) {
  const known = container.hubbubRows || new Map();
  const next = new Map();
  let cursor = container.firstChild;
  for (const spec of specs) {
    let row = known.get(spec.key);
    if (row && isSame(row.deps, spec.deps)) {
      if (row.node === cursor) cursor = cursor.nextSibling;
      else container.insertBefore(row.node, cursor);
    } else {
      const node = spec.render(row ? row.node : null);
      if (row && row.node === node) {
        // Changed in place, and left where it stands: moving it would stop its video and take its focus.
        if (node === cursor) cursor = cursor.nextSibling;
        else container.insertBefore(node, cursor);
      } else if (row) {
        if (row.node === cursor) cursor = cursor.nextSibling;
        const hadFocus = row.node.contains(document.activeElement);
        const focusName = hadFocus ? document.activeElement.dataset.focus : "";
        row.node.remove();
        container.insertBefore(node, cursor);
        if (hadFocus) {
          const target = focusName ? node.querySelector(`[data-focus="${focusName}"]`) : null;
          (target || node).focus({ preventScroll: true });
        }
      } else {
        container.insertBefore(node, cursor);
      }
      row = { node, deps: spec.deps };
    }
    next.set(spec.key, row);
  }
  for (const [key, row] of known) if (!next.has(key)) row.node.remove();
  container.hubbubRows = next;
}

function isSame(one, other) {
  if (one.length !== other.length) return false;
  for (let i = 0; i < one.length; i += 1) if (one[i] !== other[i]) return false;
  return true;
}

/** A button with an accessible name, and a drawn icon or a text. */
export function button(label, onclick, { icon = "", kind = "", text = "", ...attributes } = {}) {
  return h(
    "button",
    { type: "button", class: `button ${kind}`.trim(), "aria-label": label, title: label, onclick, ...attributes },
    icon ? drawIcon(icon) : null,
    text || (icon ? null : label),
  );
}

const ICONS = {
  back: "M15 5l-7 7 7 7",
  plus: "M12 5v14M5 12h14",
  close: "M6 6l12 12M18 6L6 18",
  send: "M4 12l16-8-6 16-3-6z",
  clip: "M20 11l-8.5 8.5a5 5 0 0 1-7-7L13 4a3.5 3.5 0 0 1 5 5l-8.5 8.5a2 2 0 0 1-3-3L14 7",
  smile: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M8.5 14.5a4.5 4.5 0 0 0 7 0M9 9.5v.5M15 9.5v.5",
  reply: "M9 7l-5 5 5 5M4 12h9a7 7 0 0 1 7 7",
  thread: "M4 5h16v11H10l-4 4v-4H4zM8 9h8M8 12h5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  people: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7M2.5 20a6.5 6.5 0 0 1 13 0M16 4.5a3.5 3.5 0 0 1 0 6.5M18 14a6 6 0 0 1 3.5 6",
  person: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8M4 21a8 8 0 0 1 16 0",
  more: "M5 11.5v1M12 11.5v1M19 11.5v1",
  down: "M12 5v14M6 13l6 6 6-6",
  bell: "M6 16V11a6 6 0 0 1 12 0v5l2 2H4zM10 21h4M3 3l18 18",
  ring: "M6 16V11a6 6 0 0 1 12 0v5l2 2H4zM10 21h4",
  gear: "M4 7h9M19 7h1M4 17h1M11 17h9M16 4.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5M8 14.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5",
  dot: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8",
  check: "M5 12l5 5 9-10",
  checks: "M2 12l5 5 8-10M11 16l1 1 9-10",
  clock: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16M12 8v4l3 2",
  warn: "M12 4l9 16H3zM12 10v4M12 17v.01",
  search: "M11 4a7 7 0 1 0 0 14 7 7 0 0 0 0-14M16 16l5 5",
  link: "M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1",
  file: "M6 3h8l4 4v14H6zM14 3v4h4",
  feed: "M5 4h14v16H5zM8.5 8.5h7M8.5 12h7M8.5 15.5h4",
  chat: "M4 5h16v11H10l-4 4v-4H4z",
  trend: "M3 17l6-6 4 4 8-9M15 6h6v6",
  heart: "M12 20s-7.5-4.6-9-9.2C2 7 4.3 4.5 7 4.5c2.2 0 3.8 1.2 5 3 1.2-1.8 2.8-3 5-3 2.7 0 5 2.5 4 6.3-1.5 4.6-9 9.2-9 9.2z",
  repeat: "M5 12V9a3 3 0 0 1 3-3h10M15 3l3 3-3 3M19 12v3a3 3 0 0 1-3 3H6M9 21l-3-3 3-3",
  up: "M12 19V5M6 11l6-6 6 6",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9v.01",
  pen: "M4 20h4L19 9l-4-4L4 16z",
  out: "M14 4h5v16h-5M4 12h11M11 8l4 4-4 4",
};

/** Draw one of the page's own line icons. Decoration only: the control carries the name. */
export function drawIcon(name, className = "icon") {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: className, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Say something to a screen reader without moving the focus. */
export function announce(text) {
  const node = document.getElementById("announcer");
  if (node) node.textContent = text;
}
