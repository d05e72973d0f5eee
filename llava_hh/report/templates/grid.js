"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");

/** An element with attributes and children; strings become text, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// a half character stands for a byte of a name that is not UTF-8
const quotedSign = (sign) => (/[\udc80-\udcff]/u.test(sign)
  ? `%${(sign.charCodeAt(0) - 0xdc00).toString(16).toUpperCase()}` : encodeURI(sign).replace(/[?#:]/g, encodeURIComponent));
const source = (name) => make("a", { class: "source", href: Array.from(name, quotedSign).join("") }, name);
const number = (value) => typeof value === "number" ? value : 0;
const headName = (layer, head) => `L${layer}H${head}`;

function signed(value) {
  if (value === null) return "not measured";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  const digits = size !== 0 && size < 0.001 ? size.toExponential(1) : size.toFixed(4);
  return (value < 0 ? "−" : "+") + digits;
}

function showTip(cell, text) {
  tip.textContent = text;
  tip.hidden = false;
  const place = cell.getBoundingClientRect();
  const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = place.top - tip.offsetHeight - 6;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 0 ? above : place.bottom + 6}px`;
}

/**
 * A map of heads, a row per layer (the first at the bottom): hover and focus tell, click and Enter choose.
 * values[layer][head] may be null; describe(layer, head) is the tip; marks: text in cells by head name.
 * Returns choose(layer, head), which also calls `chosen`.
 */
function drawGrid(host, label, values, describe, chosen, marks = new Map()) {
  const layers = values.length;
  const heads = values[0].length;
  const limit = Math.max(...values.flat().map((value) => Math.abs(number(value)))) || 1;
  const cells = values.map(() => []);
  const grid = make("div", { role: "grid", class: "grid", "aria-label": label });
  grid.style.setProperty("--columns", heads);
  for (let layer = layers - 1; layer >= 0; layer -= 1) {
    const row = make("div", { role: "row" });
    const named = layer % 5 === 0 || layer === layers - 1;
    row.append(make("span", { role: "rowheader", class: "axis", "aria-label": `layer ${layer}` }, named ? String(layer) : ""));
    for (let head = 0; head < heads; head += 1) {
      const value = values[layer][head];
      const kind = typeof value !== "number" ? "unknown" : value < 0 ? "less" : "more";
      const name = `${headName(layer, head)} ${signed(value)}`;
      const mark = marks.get(headName(layer, head)) ?? "";
      const cell = make("button", { role: "gridcell", type: "button", class: kind, tabindex: -1, "aria-label": name }, mark);
      const share = Math.abs(number(value)) / limit;
      cell.style.setProperty("--share", `${100 * share}%`);
      cell.classList.toggle("strong", share > 0.6);
      cell.dataset.layer = layer;
      cell.dataset.head = head;
      cells[layer][head] = cell;
      row.append(cell);
    }
    grid.append(row);
  }
  const every = heads > 16 ? 4 : 1;
  const numbers = Array.from({ length: heads }, (_, head) => make("span", { class: "axis" }, head % every ? "" : String(head)));
  grid.append(make("div", { class: "numbers", "aria-hidden": "true" }, make("span"), ...numbers));
  host.replaceChildren(grid, make("p", { class: "note" }, make("span", { class: "scale" }), ` −${limit.toPrecision(2)} to +${limit.toPrecision(2)}; rows are layers, columns heads`));

  let current = cells[0][0];
  const at = (cell) => [Number(cell.dataset.layer), Number(cell.dataset.head)];
  function goTo(cell) {
    current.tabIndex = -1;
    current = cell;
    current.tabIndex = 0;
  }
  function choose(layer, head) {
    goTo(cells[layer][head]);
    for (const cell of grid.querySelectorAll("[aria-selected]")) cell.removeAttribute("aria-selected");
    current.setAttribute("aria-selected", "true");
    chosen(layer, head);
  }
  const cellOf = (event) => event.target.closest("[role=gridcell]");
  const tell = (event) => {
    const cell = cellOf(event);
    if (cell) showTip(cell, describe(...at(cell)));
  };
  const hide = () => { tip.hidden = true; };
  grid.addEventListener("mouseover", tell);
  grid.addEventListener("focusin", tell);
  grid.addEventListener("mouseout", hide);
  grid.addEventListener("focusout", hide);
  grid.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell) choose(...at(cell));
  });
  grid.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const [layer, head] = at(current);
    const next = cells[layer + step[0]]?.[head + step[1]];
    if (next) {
      goTo(next);
      next.focus();
    }
  });
  goTo(current);
  return choose;
}
