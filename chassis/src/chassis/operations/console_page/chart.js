// A line chart, drawn as SVG: series over time, with a legend that shows the values at the cursor.

const LEFT = 46; // pixels for the labels of the vertical axis
const charts = [];
let cursor = null; // the moment that somebody points at, in all charts

class Chart {
  // `series` are `[label, tone]`. Stacked ones are areas on top of each other.
  constructor(title, series, format, { isStacked = false, minimum = 1 } = {}) {
    Object.assign(this, { title, series, format, isStacked, minimum, points: [], marks: [], width: 300, height: 132 });
    this.values = series.map(() => element("b"));
    this.time = element("span", { class: "time" });
    this.plot = drawing("svg", { tabindex: 0, role: "img", onpointermove: (event) => this.point(event), onpointerleave: () => moveCursor(null),
      onkeydown: (event) => this.step(event), onblur: () => moveCursor(null) });
    this.node = element("figure", { class: "chart" },
      element("figcaption", {}, element("h3", {}, title), this.time, element("span", { class: "legend" },
        series.map(([label, tone], i) => element("span", { "data-tone": tone }, element("i"), label, " ", this.values[i])))),
      this.plot);
    new ResizeObserver(([entry]) => {
      this.width = Math.max(120, Math.round(entry.contentRect.width));
      this.draw();
    }).observe(this.node);
    charts.push(this);
  }

  // `points` are `{ at, values, isGap }`; `marks` are moments, such as restarts.
  show(points, from, to, marks) {
    Object.assign(this, { points, from, to, marks });
    this.draw();
  }

  x(at) { return LEFT + ((at - this.from) / (this.to - this.from)) * (this.width - LEFT - 2); }

  y(value) { return this.height - 16 - (value / this.top) * (this.height - 24); }

  draw() {
    if (!this.from) return;
    const levels = this.points.map(({ values }) => (this.isStacked ? values.map((_, i) => values.slice(0, i + 1).reduce((a, b) => a + (b ?? 0), 0)) : values));
    this.top = niceCeiling(Math.max(this.minimum, ...levels.flat().filter(isNumber)));
    const grid = [0, 0.5, 1].map((part) => [drawing("line", { class: "grid", x1: LEFT, x2: this.width - 2, y1: this.y(this.top * part), y2: this.y(this.top * part) }),
      drawing("text", { x: LEFT - 5, y: this.y(this.top * part) + 3, "text-anchor": "end" }, part ? this.format(this.top * part) : "0")]);
    const minute = 60_000 * Math.max(1, Math.ceil((this.to - this.from) / 60_000 / Math.max(2, this.width / 90)));
    const ticks = [];
    for (let at = Math.ceil(this.from / minute) * minute; at <= this.to - 5000; at += minute) {
      if (this.x(at) > LEFT + 14 && this.x(at) < this.width - 14) ticks.push(drawing("text", { x: this.x(at), y: this.height - 2, "text-anchor": "middle" }, clock(new Date(at)).slice(0, 5)));
    }
    const lines = this.series.map(([, tone], i) => this.path(levels.map((level) => level[i]), tone, i > 0 && levels.map((level) => level[i - 1])));
    const marks = this.marks.map((at) => drawing("line", { class: "mark", x1: this.x(at), x2: this.x(at), y1: 4, y2: this.height - 16 }, drawing("title", {}, "Restarted")));
    this.line = drawing("line", { class: "cursor", y1: 4, y2: this.height - 16 });
    this.plot.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.plot.setAttribute("width", this.width);
    this.plot.setAttribute("height", this.height);
    this.plot.replaceChildren(...[grid, ticks, lines.reverse(), marks, this.line].flat(2));
    this.showCursor();
  }

  // A line, interrupted where a value is missing; an area down to `floor` for stacked series.
  path(values, tone, floor) {
    const parts = [];
    const at = (i, value) => `${this.x(this.points[i].at).toFixed(1)} ${this.y(value).toFixed(1)}`;
    values.forEach((value, i) => {
      const joins = i > 0 && isNumber(values[i - 1]) && !this.points[i].isGap;
      if (isNumber(value)) joins ? parts.at(-1).push(i) : parts.push([i]);
    });
    const line = (indexes, numbers) => indexes.map((i) => at(i, numbers[i])).join("L");
    const closed = (indexes) => `M${line(indexes, values)}L${[...indexes].reverse().map((i) => at(i, floor ? floor[i] : 0)).join("L")}Z`;
    const shapes = [drawing("path", { "data-tone": tone, class: "line", d: parts.map((one) => `M${line(one, values)}${one.length === 1 ? "h0.1" : ""}`).join("") })];
    if (this.isStacked) shapes.unshift(drawing("path", { "data-tone": tone, class: "area", d: parts.map(closed).join("") }));
    return shapes;
  }

  point(event) {
    const place = event.clientX - this.plot.getBoundingClientRect().left;
    moveCursor(this.from + ((place - LEFT) / (this.width - LEFT - 2)) * (this.to - this.from));
  }

  step(event) {
    const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!direction || !this.points.length) return;
    event.preventDefault();
    const place = cursor === null ? this.points.length - 1 : this.nearest() + direction;
    moveCursor(this.points[Math.min(Math.max(place, 0), this.points.length - 1)].at);
  }

  nearest() {
    const after = this.points.findIndex(({ at }) => at >= cursor);
    if (after <= 0) return after < 0 ? this.points.length - 1 : 0;
    return this.points[after].at - cursor < cursor - this.points[after - 1].at ? after : after - 1;
  }

  showCursor() {
    const point = this.points[cursor === null ? this.points.length - 1 : this.nearest()];
    this.values.forEach((node, i) => setText(node, this.format(point?.values[i] ?? null)));
    setText(this.time, cursor === null || !point ? "" : clock(new Date(point.at)));
    const shown = this.series.map(([label], i) => `${label} ${this.format(point?.values[i] ?? null)}`);
    this.plot.setAttribute("aria-label", `${this.title}: ${shown.join(", ")}`);
    this.line?.setAttribute("visibility", cursor === null || !point ? "hidden" : "visible");
    if (point) for (const side of ["x1", "x2"]) this.line?.setAttribute(side, this.x(point.at));
  }
}

function moveCursor(at) {
  cursor = at;
  for (const chart of charts) if (chart.from) chart.showCursor();
}

// The smallest of 1, 2 and 5 times a power of ten that is not below a value.
function niceCeiling(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((factor) => factor * power).find((nice) => nice >= value * 0.999);
}
