// One sample of a group, token by token; another one of the group is shaded by the same.
const drawTokens = async (iteration, group, number, shade = "probability") => {
  const place = of("tokens");
  let sample;
  try { sample = await ask(`runs/${state.focus}/sample`, { iteration, row: group.rows[number] }); } catch (error) { return place.replaceChildren(make("p", { class: "message" }, error.message)); }
  const card = make("div", { class: "card" });
  const choice = make("select", { "aria-label": "sample", onchange: (event) => drawTokens(iteration, group, event.target.selectedIndex, shaded.value) },
    ...group.rewards.map((reward, at) => make("option", {}, `sample ${at + 1}: reward ${write(reward)}`)));
  choice.selectedIndex = number;
  const facts = { label: sample.label, "ended by": sample.finish_reason, ...sample.info };
  const list = Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]);
  card.append(choice, make("dl", {}, ...list));
  const shaded = showTokens(card, sample);
  if ([...shaded.options].some((one) => one.value === shade)) {
    shaded.value = shade;
    shaded.dispatchEvent(new Event("change"));
  }
  if (sample.left_out) card.append(make("p", { class: "note" }, `${sample.left_out} more tokens`));
  place.replaceChildren(card);
  place.scrollIntoView({ block: "nearest" });
};
