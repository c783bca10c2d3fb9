// A lane for each process: what it did when. Of long windows the share of each stretch of time.
const svg = (tag, values, text) => {
  const found = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(values)) found.setAttribute(name, value);
  if (text !== undefined) found.textContent = text;
  return found;
};
const kinds = { generate: "generate", train: "train", sync: "sync", old_logprobs: "train", ref_logprobs: "train", teacher_logprobs: "train", values: "train", "log-probs": "train" };
const drawLanes = async () => {
  const run = state.focus, asked = state.lanes;
  const { whole, start, end, lanes } = await ask(`runs/${run}/timeline`, { from: asked.from, to: asked.to });
  if (run !== state.focus) return;
  if (whole === null) return of("lanes").replaceChildren("no timeline yet");
  Object.assign(state.lanes, { start, end, whole });
  const width = Math.max(300, of("lanes").clientWidth), left = Math.max(84, ...lanes.map(({ lane }) => 12 + 6.4 * lane.length)), row = 30, scale = (width - left - 8) / (end - start);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${lanes.length * row + 24}` });
  for (let tick = 0; tick <= 4; tick++) {
    const x = left + ((width - left - 8) * tick) / 4;
    picture.append(svg("line", { class: "grid", x1: x, x2: x, y1: 0, y2: lanes.length * row }));
    picture.append(svg("text", { class: "tick", x, y: lanes.length * row + 16, "text-anchor": tick === 4 ? "end" : "middle" }, write(start + ((end - start) * tick) / 4) + " s"));
  }
  lanes.forEach(({ lane, spans, shares }, number) => {
    const y = number * row + 5, wait = lane === "waiting" ? " wait" : "";
    picture.append(svg("text", { class: "lane", x: 0, y: y + 14 }, lane));
    for (const [name, from, to] of spans ?? []) {
      const box = svg("rect", { class: (kinds[name] ?? "other") + wait, x: left + from * scale, y, rx: 2, height: 20, width: Math.max(0.8, (to - from) * scale) });
      box.append(svg("title", {}, `${name}, ${write(to - from)} s`));
      picture.append(box);
    }
    for (const [name, filled] of Object.entries(shares ?? {})) {
      const step = (width - left - 8) / filled.length;
      filled.forEach((share, at) => {
        if (share > 0) picture.append(svg("rect", { class: (kinds[name] ?? "other") + wait, x: left + at * step, y: y + 20 * (1 - share), height: 20 * share, width: step }));
      });
    }
  });
  of("lanes").replaceChildren(picture);
};
const moves = {
  back: ([a, b]) => [a - (b - a) / 2, b - (b - a) / 2], on: ([a, b]) => [a + (b - a) / 2, b + (b - a) / 2],
  in: ([a, b]) => [a + (b - a) / 4, b - (b - a) / 4], out: ([a, b]) => [a - (b - a), b + (b - a)],
};
for (const button of document.querySelectorAll("[data-lane]"))
  button.addEventListener("click", () => {
    const { start, end, whole } = state.lanes, move = moves[button.dataset.lane];
    if (!move || whole === undefined) state.lanes = {};
    else {
      const [from, to] = move([start, end]);
      state.lanes = { ...state.lanes, from: Math.max(0, from), to: Math.min(whole, Math.max(to, from + 0.01)) };
    }
    drawLanes();
  });
