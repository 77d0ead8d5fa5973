// A small line of the last minutes: what it shows is told in words, too.

import { rate } from "./words.js";

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 120;
const HEIGHT = 28;

/** Draw values, oldest first, 5 s apart. `what` names them for those who cannot see it. */
export function sparkline(values, what) {
  const svg = document.createElementNS(SPACE, "svg");
  const highest = Math.max(0, ...values);
  const minutes = Math.max(1, Math.round((values.length * 5) / 60));
  const now = values.length ? values[values.length - 1] : 0;
  const label = values.length
    ? `${what}, last ${minutes} min: now ${rate(now)}, highest ${rate(highest)} per second`
    : `${what}: nothing measured yet`;
  const attributes = { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, preserveAspectRatio: "none" };
  for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
  const title = document.createElementNS(SPACE, "title");
  title.textContent = label;
  svg.append(title);
  if (values.length < 2) return svg;
  const step = WIDTH / (values.length - 1);
  const scale = highest ? (HEIGHT - 4) / highest : 0;
  const places = values.map((value, index) => `${(index * step).toFixed(1)},${(HEIGHT - 2 - value * scale).toFixed(1)}`);
  const area = document.createElementNS(SPACE, "polygon");
  area.setAttribute("class", "spark-area");
  area.setAttribute("points", `0,${HEIGHT} ${places.join(" ")} ${WIDTH},${HEIGHT}`);
  const line = document.createElementNS(SPACE, "polyline");
  line.setAttribute("class", "spark-line");
  line.setAttribute("points", places.join(" "));
  svg.append(area, line);
  return svg;
}
