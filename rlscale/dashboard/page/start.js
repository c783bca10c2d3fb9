// What every part uses: requests with the key, elements without markup from text, numbers as words, the page's state.
const key = new URLSearchParams(location.search).get("key");
const ask = async (path, values = {}) => {
  const given = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null && value !== undefined));
  const answer = await fetch("/api/" + path + (given.size ? "?" + given : ""), { headers: { Authorization: "Bearer " + key } });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
};
const of = (id) => document.getElementById(id);
const make = (tag, values = {}, ...inside) => {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else if (name === "class") found.className = value;
    else found.setAttribute(name, value);
  }
  found.append(...inside.filter((one) => one !== null && one !== undefined));
  return found;
};
const write = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return Number((value / 1e9).toPrecision(3)) + "B";
  if (size >= 1e6) return Number((value / 1e6).toPrecision(3)) + "M";
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
};
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const palette = ["c1", "c2", "c3", "c4", "c5"];
const state = { runs: [], chosen: [], focus: null, about: {}, zoom: null, lanes: {}, revisions: {}, iteration: null, sort: ["spread", -1] };
const colorOf = (run) => color(palette[Math.max(0, state.chosen.indexOf(run)) % palette.length]);
