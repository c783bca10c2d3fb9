// Which runs are looked at, and what is drawn anew when there is something new: asked once a second.
const hash = () => { history.replaceState(null, "", location.pathname + location.search + "#" + state.chosen.join(",")); };
const drawRuns = () => {
  const text = of("run-filter").value.trim().toLowerCase();
  const shown = state.runs.filter((run) => `${run.recipe} ${run.name} ${run.status}`.toLowerCase().includes(text)).slice(0, 200);
  of("runs").replaceChildren(...shown.map((run) => {
    const dot = make("i"), box = make("input", { type: "checkbox", "aria-label": `compare ${run.name}` });
    box.checked = state.chosen.includes(run.id);
    if (box.checked) dot.style.background = colorOf(run.id);
    box.addEventListener("change", () => choose(box.checked ? [...state.chosen, run.id] : state.chosen.filter((one) => one !== run.id), state.focus));
    const name = make("button", { type: "button", title: run.folder, onclick: () => choose([...new Set([...state.chosen, run.id])], run.id) }, `${run.recipe} / ${run.name}`);
    return make("li", run.id === state.focus ? { class: "focus" } : {}, box, dot, name, make("em", {}, run.status));
  }));
};
const choose = (chosen, focus) => {
  const kept = chosen.includes(focus) ? focus : chosen[0] ?? null;
  if (kept !== state.focus) { state.lanes = {}; state.iteration = null; of("tokens").replaceChildren(); }
  state.chosen = chosen;
  state.focus = kept;
  state.revisions = {};
  for (const { plot, card } of charts.values()) { plot?.destroy(); card.remove(); }
  charts.clear();
  hash();
  drawRuns();
  look();
};
let looking = false;
const look = async () => {
  if (looking) return;
  looking = true;
  try {
    state.runs = await ask("runs");
    if (!state.chosen.length && state.runs.length) {
      const named = location.hash.slice(1).split(",").filter((id) => state.runs.some((run) => run.id === id));
      state.chosen = named.length ? named : [state.runs[0].id];
      state.focus = state.chosen[0];
    }
    drawRuns();
    let fresh = false;
    for (const run of state.chosen) {
      const about = (state.about[run] = await ask(`runs/${run}/about`));
      if (state.revisions[run] === about.revision) continue;
      state.revisions[run] = about.revision;
      fresh = true;
      if (run === state.focus) await Promise.all([drawAdvice(about), drawFates(), drawEngines(), drawGroups(), state.lanes.from === undefined ? drawLanes() : null]);
    }
    if (fresh) await drawMetrics();
    if (state.focus) await drawLog();
    const about = state.about[state.focus];
    of("live").textContent = !about ? "no runs yet" : about.read < 1 ? `reading, ${Math.round(100 * about.read)} %` : `${about.status}, iteration ${write(about.iteration)}`;
    of("live").className = "chip " + (about?.status ?? "");
    of("of-run").textContent = about ? `${about.recipe} / ${about.name}` : "";
    document.body.dataset.drawn = String(charts.size);
  } catch (error) {
    of("live").textContent = "no answer: " + error.message;
  } finally {
    looking = false;
  }
};
of("run-filter").addEventListener("input", drawRuns);
of("metric-filter").addEventListener("input", () => drawMetrics());
of("smoothing").addEventListener("input", () => drawMetrics());
of("whole").addEventListener("click", () => { state.zoom = null; drawMetrics(); });
of("iteration").addEventListener("change", (event) => { state.iteration = event.target.value || null; drawGroups(); });
of("log-file").addEventListener("change", () => drawLog());
look();
setInterval(look, 1000);
