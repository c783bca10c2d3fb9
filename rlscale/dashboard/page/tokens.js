// One sample, token by token, shaded by what is chosen: how unlikely it was to the engine, its advantage, or its ratio.
const shades = {
  probability: (sample, at) => ["--c2", 1 - sample.probabilities[at]],
  advantage: (sample, at, most) => [sample.advantages[at] < 0 ? "--c2" : "--c1", Math.abs(sample.advantages[at]) / most],
  ratio: (sample, at) => [sample.ratios[at] < 1 ? "--c2" : "--c1", Math.min(1, Math.abs(Math.log(sample.ratios[at])))],
};
const drawTokens = async (iteration, group, number, shade = "probability") => {
  const place = of("tokens");
  let sample;
  try { sample = await ask(`runs/${state.focus}/sample`, { iteration, row: group.rows[number] }); } catch (error) { return place.replaceChildren(make("p", { class: "message" }, error.message)); }
  const known = Object.keys(shades).filter((name) => name === "probability" || sample[`${name}s`]);
  const by = known.includes(shade) ? shade : "probability";
  const choice = make("select", { "aria-label": "sample", onchange: (event) => drawTokens(iteration, group, event.target.selectedIndex, by) },
    ...group.rewards.map((reward, at) => make("option", {}, `sample ${at + 1}: reward ${write(reward)}`)));
  choice.selectedIndex = number;
  const shaded = make("select", { "aria-label": "shaded by", onchange: (event) => drawTokens(iteration, group, number, event.target.value) },
    ...known.map((name) => make("option", { value: name }, name)));
  shaded.value = by;
  const most = Math.max(1e-9, ...(sample.advantages ?? []).map((one) => Math.abs(one ?? 0)));
  const told = make("p", { class: "note" }, "point at a token");
  const tokens = sample.texts.map((text, at) => {
    const trained = sample.mask[at];
    const one = make("span", { class: trained ? "made" : "shown" }, text);
    if ((sample[by === "probability" ? "probabilities" : `${by}s`][at] ?? null) !== null) {
      const [color, strength] = shades[by](sample, at, most);
      one.style.background = `color-mix(in srgb, var(${color}) ${Math.round(70 * strength)}%, transparent)`;
    }
    one.addEventListener("pointerenter", () => {
      const more = known.slice(1).map((name) => `, ${name} ${write(sample[`${name}s`][at])}`).join("");
      told.textContent = trained ? `token ${at + 1}: probability ${write(sample.probabilities[at])}${more}, weights ${sample.versions[at]}, trained on` : `token ${at + 1}: shown to the policy, masked`;
    });
    return one;
  });
  const facts = { label: sample.label, "ended by": sample.finish_reason, ...sample.info };
  const list = Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]);
  place.replaceChildren(make("div", { class: "card" }, choice, shaded, make("dl", {}, ...list), told, make("div", { class: "token-text" }, ...tokens),
    sample.left_out ? make("p", { class: "note" }, `${sample.left_out} more tokens`) : null));
  place.scrollIntoView({ block: "nearest" });
};
