/* The metric charts of a run: drawn once, then kept up to date while the run is active.
   The table below them holds the same values for those who cannot use charts. */
"use strict";

(() => {
  const POLL_MS = 2000;
  const PATIENCE_MS = 30_000; // the longest pause while the server does not answer

  const root = document.querySelector("#charts[data-url]");
  if (!root || !window.Plotly) return;

  const figures = [...root.querySelectorAll("figure[data-metrics]")].map((element) => ({
    element,
    plot: element.querySelector(".chart-plot"),
    latest: element.querySelector(".chart-latest"),
    alarms: element.querySelector(".chart-alarms"),
    series: JSON.parse(element.dataset.metrics), // [[metric, label], …]
    isDrawn: false,
  }));
  let values = {}; // metric -> {x: [step, …], y: [value, …]}
  let lastStep = -1; // the state before training is step 0
  let alarms = []; // {metric, level, steps, sentence, …}
  let attempt = null;

  // --- values ---------------------------------------------------------------------------------
  async function fetchNew() {
    const response = await fetch(`${root.dataset.url}?after=${lastStep}`);
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const news = await response.json();
    if (attempt !== null && news.attempt !== attempt) {
      // Resumed: the steps since its checkpoint are reported again.
      attempt = news.attempt;
      lastStep = -1;
      values = {};
      return fetchNew();
    }
    attempt = news.attempt;
    // They may come later than the values that they are about.
    const hasNewAlarms = JSON.stringify(news.alarms) !== JSON.stringify(alarms);
    alarms = news.alarms;
    if (news.last_step > lastStep || hasNewAlarms) {
      lastStep = news.last_step;
      for (const [metric, points] of Object.entries(news.series)) {
        const known = (values[metric] ??= { x: [], y: [] });
        known.x.push(...points.x);
        known.y.push(...points.y);
      }
      figures.forEach(draw);
    }
    if (!news.is_active) figures.filter((figure) => !figure.isDrawn).forEach(leaveOut);
    return news.is_active;
  }

  async function poll(pause = POLL_MS) {
    let next = POLL_MS;
    try {
      if (!(await fetchNew())) return;
    } catch {
      next = Math.min(2 * pause, PATIENCE_MS); // the web process restarts: ask again, less often
    }
    setTimeout(poll, next, next);
  }

  // --- drawing --------------------------------------------------------------------------------
  const probe = root.appendChild(document.createElement("span"));
  probe.hidden = true;

  function colour(name) {
    // Asked of an element, because the property itself is only text such as light-dark(…).
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  function draw(figure) {
    const reported = figure.series.filter(([metric]) => values[metric]);
    if (!reported.length) return;
    const traces = reported.map(([metric, label], place) => ({
      x: values[metric].x,
      y: values[metric].y,
      name: label,
      type: "scatter",
      mode: values[metric].x.length < 2 ? "markers" : "lines",
      connectgaps: false,
      line: {
        color: colour(`--chart-${place + 1}`),
        width: 2,
        dash: ["solid", "dash", "dot"][place % 3], // told apart without colours too
      },
      marker: { color: colour(`--chart-${place + 1}`), size: 7 },
      hovertemplate: `%{y:.4~g}<extra>${label}</extra>`,
    }));
    const raised = alarms.filter((alarm) => reported.some(([metric]) => metric === alarm.metric));
    showAlarms(figure, raised);
    const isNonNegative = traces.every((trace) => trace.y.every((y) => y === null || y >= 0));
    const axis = {
      gridcolor: colour("--chart-grid"),
      zeroline: false,
      linecolor: colour("--chart-grid"),
      tickfont: { color: colour("--chart-text"), size: 11 },
      automargin: true,
      nticks: 5,
    };
    const layout = {
      uirevision: "keep", // what a reader has zoomed to stays when values arrive
      height: figure.plot.clientHeight,
      margin: { l: 8, r: 8, t: 4, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(root).fontFamily, color: colour("--chart-text"), size: 12 },
      showlegend: reported.length + raised.length > 1,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      hovermode: "x",
      hoverlabel: {
        bgcolor: colour("--chart-background"),
        bordercolor: colour("--chart-grid"),
        font: { color: colour("--chart-hover-text"), size: 12 },
      },
      // A finger scrolls the page; only a mouse can zoom by dragging.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: { ...axis, tickformat: "d" },
      yaxis: {
        ...axis,
        tickformat: ".3~g",
        rangemode: isNonNegative ? "nonnegative" : "normal",
        ...rangeOfNoise(traces),
      },
    };
    const marks = raised.map(marksOf);
    Plotly.react(figure.plot, [...traces, ...marks], layout, { displayModeBar: false, responsive: true });
    figure.isDrawn = true;
    figure.latest.textContent = reported
      .map(([metric, label]) => {
        const text = inShort(values[metric].y.findLast((y) => y !== null));
        return reported.length > 1 ? `${label} ${text}` : text;
      })
      .join(" · ");
  }

  function leaveOut(figure) {
    figure.latest.textContent = "not reported by this run";
    figure.plot.hidden = true;
  }

  // Marks on the curve at the steps of an alarm, told apart by their form too.
  function marksOf({ metric, level, steps }) {
    const { x, y } = values[metric];
    const places = steps.map((step) => x.indexOf(step)).filter((place) => place >= 0);
    return {
      x: places.map((place) => x[place]),
      y: places.map((place) => y[place]),
      name: `${level} alarm`,
      type: "scatter",
      mode: "markers",
      marker: {
        color: colour(`--alarm-${level}`),
        symbol: level === "red" ? "x" : "triangle-up",
        size: 10,
        line: { color: colour("--chart-background"), width: 1 },
      },
      hoverinfo: "skip",
    };
  }

  function showAlarms(figure, raised) {
    const items = raised.map(({ level, sentence }) => {
      const item = document.createElement("li");
      item.dataset.level = level;
      item.textContent = `${level[0].toUpperCase()}${level.slice(1)}: ${sentence}`;
      return item;
    });
    figure.alarms.replaceChildren(...items);
    figure.alarms.hidden = !items.length;
  }

  // Rounding errors of a constant would fill the whole height.
  function rangeOfNoise(traces) {
    const known = traces.flatMap((trace) => trace.y.filter((y) => y !== null));
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const size = Math.max(Math.abs(low), Math.abs(high));
    return high - low < size / 1000 ? { range: [low - size / 2, high + size / 2] } : {};
  }

  function inShort(value) {
    if (value === undefined) return "–";
    return String(Number(value.toPrecision(3))).replace("-", "−");
  }

  const redraw = () => figures.filter((figure) => figure.isDrawn).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, {
    attributeFilter: ["data-theme"],
  });

  poll();
})();
