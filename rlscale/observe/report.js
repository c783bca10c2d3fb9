// Reading values off the charts: the card's caption shows the values at the iteration under the pointer. Further below,
// the choice of an iteration, the search in conversations and their tokens (token_view.js, which stands behind this).
"use strict";
const write = (value, form) => {
  if (form === "percent") return (value === 0 || Math.abs(value) >= 0.0005 ? (100 * value).toFixed(1) : (100 * value).toPrecision(2)) + " %";
  const size = Math.abs(value);
  if (form === "count" && size >= 1000) {
    const unit = size >= 1e9 ? [1e9, "B"] : size >= 1e6 ? [1e6, "M"] : [1e3, "k"];
    return Number((value / unit[0]).toPrecision(3)) + unit[1];
  }
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(1);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
};
for (const card of document.querySelectorAll("[data-chart]")) {
  const data = JSON.parse(card.dataset.chart);
  const svg = card.querySelector("svg"), cross = card.querySelector(".cross"), readout = card.querySelector(".readout");
  const last = readout.cloneNode(true).childNodes;
  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const share = Math.min(1, Math.max(0, (at - data.left) / (data.right - data.left)));
    const wanted = data.x[0] + share * (data.x[1] - data.x[0]);
    const found = data.series.map((series) => [series, nearest(series.points, wanted)]);
    const x = found.map(([, point]) => point[0]).reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a));
    const position = data.left + ((x - data.x[0]) / (data.x[1] - data.x[0])) * (data.right - data.left);
    for (const [name, value] of [["x1", position], ["x2", position], ["y1", data.top], ["y2", data.bottom]]) cross.setAttribute(name, value);
    cross.style.visibility = "visible";
    const where = document.createElement("span");
    where.textContent = data.xName + " " + x.toLocaleString("en");
    readout.replaceChildren(where);
    for (const [series, point] of found) {
      if (point[0] !== x) continue;
      const entry = document.createElement("span"), value = document.createElement("b");
      entry.className = "c" + series.color;
      value.textContent = write(point[1], data.form);
      entry.append(document.createElement("i"), series.name + " ", value);
      readout.append(entry);
    }
  });
  svg.addEventListener("pointerleave", () => {
    cross.style.visibility = "hidden";
    readout.replaceChildren(...Array.from(last, (node) => node.cloneNode(true)));
  });
}
for (const card of document.querySelectorAll("[data-choice]")) {
  const select = card.querySelector("select"), tables = card.querySelectorAll(":scope > div");
  const show = () => tables.forEach((table, number) => { table.hidden = number !== select.selectedIndex; });
  select.addEventListener("change", show);
  show(); // a browser may have kept the choice over a reload
}
for (const search of document.querySelectorAll(".search")) {
  const input = search.querySelector("input"), told = search.querySelector("output");
  const cards = Array.from(document.querySelectorAll(".conversation"), (card) => [card, card.textContent.toLowerCase()]);
  const find = () => {
    const wanted = input.value.trim().toLowerCase();
    let found = 0;
    for (const [card, text] of cards) {
      card.hidden = !text.includes(wanted);
      found += !card.hidden;
      card.open = wanted !== "" && !card.hidden && found <= 3;
    }
    told.textContent = wanted === "" ? "" : found + " of " + cards.length;
  };
  input.addEventListener("input", find);
  search.hidden = false;
}
for (const details of document.querySelectorAll("[data-tokens]")) {
  details.addEventListener("toggle", () => {
    const { first, texts, ...sample } = JSON.parse(details.dataset.tokens); // packed by conversation_cards.py
    const unpacked = (runs) => runs && runs.flatMap(([value, times]) => Array(times).fill(value));
    for (const name of ["mask", "versions", "advantages"]) sample[name] = unpacked(sample[name]);
    showTokens(details, { ...sample, texts: texts.split("\u241f") }, first);
  }, { once: true });
}
