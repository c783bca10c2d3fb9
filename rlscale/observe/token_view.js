// A sample token by token, shaded by what is chosen: how unlikely it was to the engine, its advantage, or its ratio.
const tokenShades = {
  probability: (sample, at) => ["--c2", 1 - sample.probabilities[at]],
  advantage: (sample, at, most) => [sample.advantages[at] < 0 ? "--c2" : "--c1", Math.abs(sample.advantages[at]) / most],
  ratio: (sample, at) => [sample.ratios[at] < 1 ? "--c2" : "--c1", Math.min(1, Math.abs(Math.log(sample.ratios[at])))],
};
const tokenNumbers = (sample, name) => sample[name === "probability" ? "probabilities" : `${name}s`];
// Shows the sample below `place`: what to shade by, what the token under the pointer is, and the tokens.
const showTokens = (place, sample, first = 0) => {
  const known = Object.keys(tokenShades).filter((name) => tokenNumbers(sample, name));
  const node = (tag, name, text) => { const made = document.createElement(tag); made.className = name; made.textContent = text; return made; };
  const shaded = document.createElement("select"), told = node("p", "note", "point at a token"), tokens = node("div", "token-text", "");
  shaded.setAttribute("aria-label", "shaded by");
  shaded.append(...known.map((name) => new Option(name, name)));
  const most = Math.max(1e-9, ...(sample.advantages ?? []).map((one) => Math.abs(one ?? 0)));
  const number = (value) => (value === null || value === undefined ? "–" : write(value));
  const spans = sample.texts.map((text, at) => {
    const trained = sample.mask[at], one = node("span", trained ? "made" : "shown", text);
    one.addEventListener("pointerenter", () => {
      const facts = known.map((name) => `${name} ${number(tokenNumbers(sample, name)[at])}`).join(", ");
      told.textContent = `token ${first + at + 1}: ` + (trained ? `${facts}, weights ${sample.versions[at]}, trained on` : "shown to the policy, masked");
    });
    return one;
  });
  const shade = () => spans.forEach((one, at) => {
    one.style.background = "";
    if ((tokenNumbers(sample, shaded.value)[at] ?? null) === null) return;
    const [color, strength] = tokenShades[shaded.value](sample, at, most);
    one.style.background = `color-mix(in srgb, var(${color}) ${Math.round(70 * strength)}%, transparent)`;
  });
  shaded.addEventListener("change", shade);
  shade();
  tokens.append(...spans);
  place.append(shaded, told, tokens);
  return shaded;
};
