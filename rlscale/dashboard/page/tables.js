// Advice, fates, engines, groups and the log of the run that is looked at.
const drawAdvice = (about) => {
  const message = about.message ? [make("p", { class: "message" }, about.message)] : [];
  of("advice").replaceChildren(...message, ...about.advice.map(({ what, change }) => make("div", { class: "card advice" }, make("b", {}, what), make("p", {}, change))));
};
const drawFates = async () => {
  // Made by the server of numbers and known words; the page's policy runs no script in it.
  of("fates").innerHTML = (await ask(`runs/${state.focus}/fates`)) || "<p class=note>Nothing was counted yet.</p>";
};
const table = (heads, rows) => make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", {}, head)))), make("tbody", {}, ...rows));
const drawEngines = async () => {
  const engines = await ask(`runs/${state.focus}/engines`), place = of("engines");
  if (!engines.length) return place.replaceChildren();
  if (engines.length > 64) {
    const cells = engines.map((one) => {
      const cell = make("i", { title: `${one.engine}: ${write(one.running)} running, ${write(one.waiting)} waiting, cache ${write(100 * one.usage)} %, restarts ${one.restarts}` });
      cell.style.opacity = 0.12 + 0.88 * Math.min(1, one.usage ?? 0);
      return cell;
    });
    return place.replaceChildren(make("div", { class: "fleet" }, ...cells), make("p", { class: "note" }, `${engines.length} engines, darker: more of the cache in use`));
  }
  place.replaceChildren(table(["engine", "running", "waiting", "cache in use", "restarts", "iteration"], engines.map((one) => make("tr", {}, ...[one.engine, write(one.running), write(one.waiting), write(100 * one.usage) + " %", write(one.restarts), write(one.iteration)].map((text) => make("td", {}, text))))));
};
const columns = { prompt: "prompt", mean: "reward", spread: "spread", length: "tokens", age: "age" };
const drawGroups = async () => {
  const run = state.focus;
  let found;
  try { found = await ask(`runs/${run}/groups`, { iteration: state.iteration }); } catch (error) { found = { error: error.message }; }
  if (run !== state.focus) return;
  if (found.error) return of("groups").replaceChildren(make("p", { class: "message" }, found.error));
  if (found.iteration === null) return of("groups").replaceChildren(make("p", { class: "note" }, "No rollouts are stored: a run stores them with rollout.store=all."));
  of("iteration").value = found.iteration;
  [of("iteration").min, of("iteration").max] = found.stored;
  const [name, way] = state.sort;
  found.groups.sort((a, b) => way * (a[name] > b[name] ? 1 : a[name] < b[name] ? -1 : 0));
  const heads = Object.entries(columns).map(([column, text]) => make("button", { type: "button", onclick: () => { state.sort = [column, state.sort[0] === column ? -state.sort[1] : -1]; drawGroups(); } }, text + (column === name ? (way < 0 ? " ↓" : " ↑") : "")));
  const rows = found.groups.map((group) => make("tr", { tabindex: 0, onclick: () => drawTokens(found.iteration, group, 0), onkeydown: (event) => event.key === "Enter" && drawTokens(found.iteration, group, 0) },
    ...[group.prompt + (group.source ? ` (${group.source})` : ""), write(group.mean), write(group.spread), write(group.length), write(group.age)].map((text) => make("td", {}, text))));
  of("groups").replaceChildren(table(heads, rows));
};
const drawLog = async () => {
  const about = state.about[state.focus], select = of("log-file");
  if (!about) return;
  if ([...select.options].map((one) => one.value).join() !== about.logs.join()) {
    const chosen = select.value;
    select.replaceChildren(...about.logs.map((name) => make("option", { value: name }, name)));
    if (about.logs.includes(chosen)) select.value = chosen;
  }
  const pane = of("log"), atEnd = pane.scrollTop + pane.clientHeight >= pane.scrollHeight - 8;
  pane.textContent = select.value ? (await ask(`runs/${state.focus}/log`, { file: select.value })).join("\n") : "no log";
  if (atEnd) pane.scrollTop = pane.scrollHeight;
};
