"use strict";
(() => {
  const read = (id) => document.getElementById(id);
  const data = JSON.parse(read("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const DASHES = ["solid", "dash", "dot", "dashdot"];
  const state = { log: false, smoothing: 0, printing: false };
  const drawn = new Set();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Text is put into SVG by the library, which understands some tags: none of a run's names is to be one.
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // An exponential mean, corrected for its start; a gap stays a gap, and the mean goes on behind it.
  function smooth(values, weight) {
    let mean = 0, share = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      share = weight * share + (1 - weight);
      return mean / share;
    });
  }

  function nameOf(curve) {
    return data.runs.length > 1 ? `${data.runs[curve.run]}: ${curve.name}` : curve.name;
  }

  function traces(chart) {
    const found = [];
    const perRun = new Map();
    for (const curve of chart.curves) {
      const place = perRun.get(curve.run) || 0;
      perRun.set(curve.run, place + 1);
      const alone = data.runs.length === 1;
      const paint = colour(`--run-${(alone ? place : curve.run) % 8}`);
      const dash = DASHES[(alone ? Math.floor(place / 8) : place + Math.floor(curve.run / 8)) % DASHES.length];
      const few = curve.x.length <= 60;
      const base = {
        type: "scatter", x: curve.x, name: plain(nameOf(curve)), connectgaps: false, legendgroup: String(found.length),
        hovertemplate: "%{y:.5g}<extra>" + plain(nameOf(curve)) + "</extra>",
      };
      if (state.smoothing > 0) {
        found.push({ ...base, y: curve.y, mode: "lines", opacity: 0.3, showlegend: false, hoverinfo: "skip", hovertemplate: undefined,
          line: { color: paint, width: 1, dash } });
      }
      found.push({
        ...base, y: state.smoothing > 0 ? smooth(curve.y, state.smoothing) : curve.y, mode: few ? "lines+markers" : "lines",
        line: { color: paint, width: 2, dash }, marker: { color: paint, size: 5 },
      });
      if (curve.marks.length) {
        found.push({
          type: "scatter", mode: "markers", yaxis: "y2", x: curve.marks.map((mark) => mark[0]), y: curve.marks.map(() => 0.03),
          text: curve.marks.map((mark) => plain(mark[1])), showlegend: false, name: plain(nameOf(curve)),
          marker: { symbol: "x", size: 9, color: colour("--bad") }, hovertemplate: "%{text}<extra>" + plain(nameOf(curve)) + "</extra>",
        });
      }
    }
    return found;
  }

  function layout(chart, keep) {
    const text = colour("--text"), line = colour("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true };
    return {
      autosize: true, margin: { l: 48, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: "system-ui, sans-serif", size: 12 }, hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--panel"), bordercolor: line, font: { color: text } },
      dragmode: coarse.matches ? false : "zoom",
      showlegend: chart.curves.length > 1, legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      xaxis: { ...axis, title: { text: "step", standoff: 6 }, hoverformat: ",d", unifiedhovertitle: { text: "step %{x}" }, ...(keep ? { range: keep, autorange: false } : {}) },
      yaxis: { ...axis, type: state.log ? "log" : "linear", exponentformat: "power", nticks: 6 },
      yaxis2: { overlaying: "y", range: [0, 1], fixedrange: true, visible: false },
    };
  }

  const config = { displaylogo: false, responsive: true, displayModeBar: false, doubleClick: "reset+autosize" };

  function draw(number, keepZoom = true) {
    const place = read(`chart-${number}`), chart = data.charts[number];
    const before = keepZoom && place.layout && place.layout.xaxis.autorange === false ? place.layout.xaxis.range.slice() : null;
    Plotly.react(place, traces(chart), layout(chart, before), config);
    drawn.add(number);
  }

  const redraw = () => drawn.forEach((number) => draw(number));

  function zoom(number, how) {
    const place = read(`chart-${number}`);
    if (!place.layout) return;
    if (how === "all") {
      Plotly.relayout(place, { "xaxis.autorange": true, "yaxis.autorange": true });
      return;
    }
    const [low, high] = place.layout.xaxis.range;
    const middle = (low + high) / 2, half = ((high - low) / 2) * (how === "in" ? 0.5 : 2);
    Plotly.relayout(place, { "xaxis.range": [middle - half, middle + half], "yaxis.autorange": true });
  }

  // By keyboard: from value to value of all curves, which are said as well.
  const cursors = new Map();
  function point(number, move) {
    const place = read(`chart-${number}`), curves = data.charts[number].curves;
    const steps = [...new Set(curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    if (!steps.length) return;
    const before = cursors.has(number) ? cursors.get(number) : move > 0 ? -1 : steps.length;
    const now = Math.min(Math.max(before + move, 0), steps.length - 1);
    cursors.set(number, now);
    const step = steps[now];
    Plotly.Fx.hover(place, { xval: step, yval: 0 }, ["xy"]);
    const words = curves.map((curve) => {
      const at = curve.x.indexOf(step);
      if (at < 0) return null;
      const mark = curve.marks.find((one) => one[0] === step);
      return `${nameOf(curve)} ${curve.y[at] === null ? (mark ? mark[1] : "no value") : Number(curve.y[at].toPrecision(5))}`;
    });
    read("spoken").textContent = `step ${step}: ${words.filter(Boolean).join(", ")}`;
  }

  function onKey(event) {
    const number = Number(event.currentTarget.id.slice("chart-".length));
    const far = event.shiftKey ? 10 : 1;
    const actions = {
      ArrowRight: () => point(number, far), ArrowLeft: () => point(number, -far),
      Home: () => point(number, -Infinity), End: () => point(number, Infinity),
      "+": () => zoom(number, "in"), "=": () => zoom(number, "in"), "-": () => zoom(number, "out"), "0": () => zoom(number, "all"),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  function begin() {
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        seen.unobserve(entry.target);
        draw(Number(entry.target.id.slice("chart-".length)));
      }
    }, { rootMargin: "400px" });
    data.charts.forEach((_, number) => {
      const place = read(`chart-${number}`);
      place.addEventListener("keydown", onKey);
      place.addEventListener("blur", () => { cursors.delete(number); if (place.layout) Plotly.Fx.unhover(place); });
      seen.observe(place);
    });
    read("log-scale").addEventListener("change", (event) => { state.log = event.target.checked; redraw(); });
    read("smoothing").addEventListener("input", (event) => {
      state.smoothing = Number(event.target.value);
      read("smoothing-value").textContent = state.smoothing ? state.smoothing.toFixed(2) : "off";
      redraw();
    });
    read("reset-all").addEventListener("click", () => drawn.forEach((number) => zoom(number, "all")));
    document.querySelectorAll("[data-zoom]").forEach((button) => {
      button.addEventListener("click", () => zoom(Number(button.dataset.chart), button.dataset.zoom));
    });
    dark.addEventListener("change", redraw);
    // On paper: all charts, and as wide as a page.
    addEventListener("beforeprint", () => {
      data.charts.forEach((_, number) => {
        if (read(`chart-${number}`).offsetParent === null) return;
        draw(number);
        Plotly.relayout(read(`chart-${number}`), { width: 660, autosize: false });
      });
    });
    addEventListener("afterprint", () => {
      drawn.forEach((number) => Plotly.relayout(read(`chart-${number}`), { width: null, autosize: true }));
    });
    document.documentElement.dataset.ready = "yes";
  }

  // Tables that are wider than the screen are scrolled by keyboard too.
  document.querySelectorAll(".wide").forEach((place) => {
    const note = () => { if (place.scrollWidth > place.clientWidth) place.tabIndex = 0; else place.removeAttribute("tabindex"); };
    new ResizeObserver(note).observe(place);
  });

  async function load() {
    if (!data.charts.length) { document.documentElement.dataset.ready = "yes"; return; }
    const packed = Uint8Array.from(atob(read("library").textContent.trim()), (letter) => letter.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(unpacked).text();
    document.head.append(script);
    read("library").remove();
    begin();
  }
  load().catch((error) => { read("trouble").hidden = false; throw error; });
})();
