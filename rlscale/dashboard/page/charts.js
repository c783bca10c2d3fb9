// Metrics of the chosen runs, a chart each: raw faintly between its least and most, smoothed over it. Drag to zoom.
const first = ["reward", "eval/pass@1", "response_length", "entropy", "loss", "grad_norm", "logprob_diff_mean", "ppo_kl", "tokens_per_s", "staleness_mean", "truncated", "groups_without_signal"];
const most = 24;
const charts = new Map();
const smoothed = (values, weight) => {
  let mean = null, filled = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return value;
    mean = (mean === null ? 0 : mean) * weight + value * (1 - weight);
    filled = filled * weight + (1 - weight);
    return mean / filled;
  });
};
const wantedMetrics = () => {
  const known = new Set(state.chosen.flatMap((run) => Object.keys(state.about[run]?.newest ?? {})));
  const text = of("metric-filter").value.trim();
  if (!text) return first.filter((name) => known.has(name));
  let pattern;
  try { pattern = new RegExp(text, "i"); } catch { return []; }
  return [...known].sort().filter((name) => pattern.test(name));
};
const drawn = (name, curves) => {
  const weight = Number(of("smoothing").value);
  const tables = curves.map(([, curve]) => [curve.x, curve.low, curve.high, curve.mean, smoothed(curve.mean, weight)]);
  const data = tables.length > 1 ? uPlot.join(tables, tables.map((table) => table.map(() => 2))) : tables[0];
  const series = [{}], bands = [];
  curves.forEach(([run], number) => {
    const stroke = colorOf(run), at = 1 + 4 * number;
    series.push({ stroke: "transparent", points: { show: false }, spanGaps: true }, { stroke: "transparent", points: { show: false }, spanGaps: true });
    series.push({ stroke: stroke + "55", width: 1, spanGaps: true, points: { show: false } });
    series.push({ stroke, width: 2, spanGaps: true, points: { show: curves[number][1].x.length < 24, size: 5, fill: stroke } });
    bands.push({ series: [at + 1, at], fill: stroke + "22" });
  });
  return { data, series, bands };
};
const drawChart = (name, curves) => {
  let chart = charts.get(name);
  const kind = curves.map(([run, curve]) => run + (curve.x.length < 24)).join();
  const { data, series, bands } = drawn(name, curves);
  if (!chart) {
    const readout = make("div", { class: "readout" }), place = make("div");
    const card = make("figure", { class: "card chart", "data-metric": name }, make("figcaption", {}, make("h3", { title: name }, name), readout), place);
    charts.set(name, (chart = { card, readout, place, plot: null, kind: "" }));
  }
  const readOut = (index) => {
    const x = index === null ? null : chart.plot.data[0][index];
    chart.readout.replaceChildren(...(x === null ? [] : [make("span", {}, "iteration " + write(x))]), ...curves.map(([run], number) => {
      const values = chart.plot.data[4 + 4 * number] ?? [];
      const value = index === null ? [...values].reverse().find((one) => one !== null && one !== undefined) : values[index];
      const dot = make("i");
      dot.style.background = colorOf(run);
      return value === null || value === undefined ? null : make("span", {}, dot, make("b", {}, write(value)));
    }).filter(Boolean));
  };
  if (chart.plot && chart.kind === kind) chart.plot.setData(data);
  else {
    chart.plot?.destroy();
    chart.kind = kind;
    const axis = { stroke: color("faint"), grid: { stroke: color("grid"), width: 1 }, ticks: { show: false }, font: "11px sans-serif", values: (plot, values) => values.map(write) };
    chart.plot = new uPlot({
      width: Math.max(200, chart.place.clientWidth || 320), height: 190, series, bands, legend: { show: false },
      scales: { x: { time: false } }, axes: [{ ...axis, size: 26 }, { ...axis, size: 52 }], cursor: { drag: { x: true, y: false, setScale: false } },
      hooks: {
        setCursor: [(plot) => chart.plot && readOut(plot.cursor.idx ?? null)],
        setSelect: [(plot) => {
          if (plot.select.width < 4) return;
          state.zoom = [plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")];
          plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          drawMetrics();
        }],
      },
    }, data, chart.place);
    chart.plot.over.addEventListener("dblclick", () => { state.zoom = null; drawMetrics(); });
  }
  readOut(null);
};
const drawMetrics = async () => {
  const names = wantedMetrics(), shown = names.slice(0, most), runs = [...state.chosen];
  of("whole").hidden = state.zoom === null;
  of("charts-note").textContent = names.length > most ? `${names.length - most} more match: narrow the filter.` : names.length ? "" : "No metric yet, or none that matches.";
  const [from, to] = state.zoom ?? [null, null];
  for (const [name, chart] of charts) if (!shown.includes(name)) { chart.plot?.destroy(); chart.card.remove(); charts.delete(name); }
  const answers = await Promise.all(shown.map((metric) => Promise.all(runs.map(async (run) => [run, await ask(`runs/${run}/curve`, { metric, points: 600, from, to })]))));
  if (runs.join() !== state.chosen.join()) return;
  shown.forEach((name, number) => {
    const curves = answers[number].filter(([, curve]) => curve.x.length);
    if (!curves.length) return;
    if (!charts.get(name)?.card.isConnected) {
      drawChart(name, curves);
      of("charts").append(charts.get(name).card);
      charts.get(name).plot.setSize({ width: Math.max(200, charts.get(name).place.clientWidth), height: 190 });
    } else drawChart(name, curves);
  });
};
addEventListener("resize", () => { for (const { plot, place } of charts.values()) plot?.setSize({ width: Math.max(200, place.clientWidth), height: 190 }); });
