// Draws every [data-figure]: the figure is JSON in the <script> whose id the attribute names. Colours of text, grid
// and paper come from the page's theme, so a figure is drawn again when the theme changes, and light for printing.
// A script that puts other figures into the page says so with the event "figureschange".

const places = () => [...document.querySelectorAll("[data-figure]")];
const NARROW = 520; // pixels; below it names are cut shorter and points carry no text

const config = {
  displaylogo: false,
  responsive: true,
  showSendToCloud: false,
  showEditInChartStudio: false,
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  toImageButtonOptions: { format: "png", scale: 2 },
  modeBarButtonsToAdd: [
    {
      name: "toSvg",
      title: "Download as SVG",
      icon: {
        width: 24,
        height: 24,
        path: "M5 2h9l5 5v15H5zM7 4v16h10V8h-4V4zM9 12h6v2H9zm0 4h6v2H9z",
      },
      click: (place) => window.Plotly.downloadImage(place, { format: "svg", filename: place.dataset.figure }),
    },
  ],
};

function colours(printing) {
  if (printing) return { text: "#1b1f24", quiet: "#d5d9de", paper: "#ffffff", family: "sans-serif" };
  const style = getComputedStyle(document.body);
  const of = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  return {
    text: style.color,
    quiet: of("--bs-border-color", "#d5d9de"),
    paper: of("--bs-body-bg", "#ffffff"),
    family: style.fontFamily,
  };
}

const FEW_TICKS = 6; // that a narrow logarithmic axis has room for
const isTen = (value) => Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6;
const tens = ({ tickvals, ticktext }) => ({ tickvals: tickvals.filter(isTen), ticktext: ticktext.filter((_, at) => isTen(tickvals[at])) });
const shorter = (name) => (name.length > 15 && !name.includes("&") ? `${name.slice(0, 7)}…${name.slice(-7)}` : name);

function themed(figure, width, printing) {
  const { data, layout } = structuredClone(figure);
  const { text, quiet, paper, family } = colours(printing);
  const narrow = width < NARROW;
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: text, family, size: 13 } });
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: paper, bordercolor: quiet, font: { color: text, family } };
  layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: text, activecolor: text, orientation: "h" };
  layout.title = undefined; // the page has it as a heading
  layout.margin = { ...layout.margin, t: data[0]?.type === "treemap" ? 4 : Math.min(layout.margin.t, 32) };
  for (const name of Object.keys(layout)) {
    if (!/^[xy]axis\d*$/.test(name)) continue;
    const axis = layout[name];
    Object.assign(axis, { gridcolor: quiet, linecolor: quiet, zerolinecolor: quiet, tickcolor: quiet });
    if (narrow && axis.type === "log" && axis.tickvals?.length > FEW_TICKS) Object.assign(axis, tens(axis));
    if (narrow && axis.ticktext) axis.ticktext = axis.ticktext.map(shorter);
    if (axis.title?.text) axis.title.font = { size: narrow ? 11 : 13 };
  }
  if (narrow) layout.annotations = layout.annotations?.filter(({ name }) => name !== "tick"); // there is no room beside an axis
  if (narrow) layout.margin = { ...layout.margin, l: 12, r: 12 };
  for (const trace of data) {
    if (narrow && trace.mode === "markers+text") trace.mode = "markers";
    if (narrow && trace.marker?.showscale) trace.marker.showscale = false;
    if (trace.type === "treemap") trace.marker = { ...trace.marker, line: { color: paper, width: 1 } };
    if (trace.marker?.line && trace.type === "scatter") trace.marker.line.color = paper;
  }
  if (printing) layout.width = 660; // pixels between the margins of A4
  return { data, layout };
}

function draw(place, printing = false) {
  const { data, layout } = themed(place.figure, place.clientWidth, printing);
  window.Plotly.react(place, data, layout, config);
  if (place.opens) return;
  place.opens = true;
  place.on("plotly_click", ({ points: [point] }) => {
    const run = point?.data.meta?.runs?.[point.pointNumber];
    if (run) location.assign(`/runs/${run}`);
  });
  place.on("plotly_relayout", (changed) => {
    if (!Object.keys(changed).some((name) => /^[xy]axis\.(range|autorange)/.test(name))) return;
    const { xaxis, yaxis } = place.layout;
    const whole = [xaxis, yaxis].every(({ autorange }) => autorange); // as drawn, true or "reversed"
    const ends = [...(xaxis.range ?? []), ...(yaxis.range ?? [])].map((end) => Number(end.toPrecision(6)));
    place.dispatchEvent(new CustomEvent("zoomed", { bubbles: true, detail: whole ? "" : ends.join() }));
  });
}

function read() {
  for (const place of places()) {
    const source = document.getElementById(place.dataset.figure).textContent;
    if (place.source === source) continue;
    place.source = source;
    place.figure = JSON.parse(source);
    draw(place);
  }
  document.documentElement.dataset.chartsDrawn = String(places().length);
}

read();
const all = (printing) => () => places().forEach((place) => draw(place, printing));
document.addEventListener("figureschange", read);
document.addEventListener("themechange", all(false));
addEventListener("beforeprint", all(true));
addEventListener("afterprint", all(false));
