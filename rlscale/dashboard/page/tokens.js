// One sample, token by token: what the policy sampled is shaded by how unlikely it was to the engine.
const drawTokens = async (iteration, group, number) => {
  const place = of("tokens");
  let sample;
  try { sample = await ask(`runs/${state.focus}/sample`, { iteration, row: group.rows[number] }); } catch (error) { return place.replaceChildren(make("p", { class: "message" }, error.message)); }
  const choice = make("select", { "aria-label": "sample", onchange: (event) => drawTokens(iteration, group, event.target.selectedIndex) },
    ...group.rewards.map((reward, at) => make("option", {}, `sample ${at + 1}: reward ${write(reward)}`)));
  choice.selectedIndex = number;
  const told = make("p", { class: "note" }, "point at a token");
  const tokens = sample.texts.map((text, at) => {
    const probability = sample.probabilities[at], trained = sample.mask[at];
    const one = make("span", { class: trained ? "made" : "shown" }, text);
    if (probability !== null) one.style.background = `color-mix(in srgb, var(--c2) ${Math.round(70 * (1 - probability))}%, transparent)`;
    one.addEventListener("pointerenter", () => {
      told.textContent = trained ? `token ${at + 1}: probability ${write(probability)}, weights ${sample.versions[at]}, trained on` : `token ${at + 1}: shown to the policy, masked`;
    });
    return one;
  });
  const facts = { label: sample.label, "ended by": sample.finish_reason, ...sample.info };
  const list = Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]);
  place.replaceChildren(make("div", { class: "card" }, choice, make("dl", {}, ...list), told, make("div", { class: "token-text" }, ...tokens),
    sample.left_out ? make("p", { class: "note" }, `${sample.left_out} more tokens`) : null));
  place.scrollIntoView({ block: "nearest" });
};
