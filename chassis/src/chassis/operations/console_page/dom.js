"use strict";
// Elements, texts and tables. Nothing from the server becomes HTML: it is only ever put into text nodes.

const absent = (value) => value === undefined || value === null || value === false;

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (!absent(value)) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => !absent(child)));
  return node;
}
const element = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const drawing = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const button = (label, onclick, attributes = {}) => element("button", { type: "button", onclick, ...attributes }, label);
const heading = (label, ...beside) => element("div", { class: "heading" }, element("h2", {}, label), beside);
const field = (label, control) => element("label", {}, element("span", {}, label), control);
const options = (values, labels = values) => values.map((value, i) => element("option", { value }, labels[i]));

// Set a text only where it differs, so that an unchanged page costs nothing and screen readers stay quiet.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

const NONE = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const number = (value, digits = value < 10 ? 2 : value < 100 ? 1 : 0) => (isNumber(value)
  ? value.toLocaleString("en", { maximumFractionDigits: value === 0 ? 0 : digits }) : NONE);
const percent = (share) => (isNumber(share) ? `${number(share * 100, share < 0.1 ? 2 : 1)} %` : NONE);
const milliseconds = (ms) => (!isNumber(ms) ? NONE : ms < 1000 ? `${number(ms)} ms` : `${number(ms / 1000)} s`);
const megabytes = (bytes) => (isNumber(bytes) ? `${number(bytes / 1e6, 1)} MB` : NONE);
const twoDigits = (value) => String(value).padStart(2, "0");
const clock = (date, fraction = "") =>
  [date.getHours(), date.getMinutes(), date.getSeconds()].map(twoDigits).join(":") + fraction;
const clockOf = (timestamp) => { // with milliseconds
  const date = new Date(timestamp);
  return Number.isNaN(date.getTime()) ? String(timestamp) : clock(date, `.${String(date.getMilliseconds()).padStart(3, "0")}`);
};
function span(seconds) { // a time span for people
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].filter(([size]) => seconds >= size);
  if (!units.length) return "0 s";
  const [[size, unit], smaller] = units;
  const rest = smaller && Math.floor((seconds % size) / smaller[0]);
  return `${Math.floor(seconds / size)} ${unit}${rest && size > 60 ? ` ${rest} ${smaller[1]}` : ""}`;
}
// Any JSON value on one line.
function brief(value) {
  if (absent(value)) return value === false ? "no" : NONE;
  if (value === true) return "yes";
  if (Array.isArray(value)) return value.map(brief).join(", ") || NONE;
  if (typeof value !== "object") return String(value);
  return Object.entries(value).map(([key, item]) => `${key}=${typeof item === "object" && item ? JSON.stringify(item) : item}`).join(" ");
}

// A table whose rows are kept by their keys, so that polling changes only what is new. A column is
// `{ label, text(item), make(item), sort(item), kind }`: `make` returns an element, once for each row.
class Table {
  constructor(label, columns, { key, empty = "Nothing to show.", onSelect, order } = {}) {
    Object.assign(this, { columns, key, empty, onSelect, order, rows: new Map(), items: [], descends: true });
    this.body = element("tbody");
    this.note = element("p", { class: "empty" });
    this.heads = columns.map((column) => element("th", { scope: "col", class: column.kind },
      column.sort ? button(column.label, () => this.sortBy(column)) : column.label));
    this.node = element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
      element("table", {}, element("thead", {}, element("tr", {}, this.heads)), this.body), this.note);
    this.markOrder();
  }

  sortBy(column) {
    this.descends = this.order !== column || !this.descends;
    this.order = column;
    this.markOrder();
    this.show(this.items);
  }

  markOrder() {
    this.columns.forEach((column, i) => {
      if (column.sort) this.heads[i].setAttribute("aria-sort", column !== this.order ? "none" : this.descends ? "descending" : "ascending");
    });
  }

  // Whether somebody points at a row or has its focus: then new rows would move it away.
  get isHeld() { return this.rows.size > 0 && this.body.matches(":hover, :focus-within"); }

  show(items, note = this.empty) {
    this.items = items;
    if (this.order) {
      const { sort } = this.order;
      const direction = this.descends ? -1 : 1;
      const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      items = [...items].sort((a, b) => direction * compare(sort(a) ?? -1, sort(b) ?? -1) || compare(this.key(a), this.key(b)));
    }
    const keys = new Set(items.map(this.key));
    for (const [id, { node }] of this.rows) {
      if (keys.has(id)) continue;
      node.remove();
      this.rows.delete(id);
    }
    let place = this.body.firstChild;
    for (const item of items) {
      const id = this.key(item);
      const row = this.rows.get(id) ?? this.addRow(id, item);
      this.fill(row, item);
      if (row.node === place) place = place.nextSibling;
      else this.body.insertBefore(row.node, place);
    }
    setText(this.note, items.length ? "" : note);
  }

  addRow(id, item) {
    const row = { item };
    row.cells = this.columns.map((column, i) => {
      if (column.make) return column.make(item);
      return i === 0 && this.onSelect ? button("", () => this.select(id), { class: "link" }) : document.createTextNode("");
    });
    row.node = element("tr", { onclick: (event) => {
      if (this.onSelect && !event.target.closest("button") && getSelection().isCollapsed) this.select(id);
    } }, row.cells.map((cell, i) => element("td", { class: this.columns[i].kind }, cell)));
    this.rows.set(id, row);
    return row;
  }

  fill(row, item) {
    row.item = item;
    this.columns.forEach((column, i) => {
      if (column.text) setText(row.cells[i], column.text(item) ?? NONE);
      if (column.tone) row.cells[i].parentNode.dataset.tone = column.tone(item) ?? "";
    });
  }

  select(id) {
    this.mark(id);
    this.onSelect(this.rows.get(id).item);
  }

  mark(id) {
    for (const [key, { node }] of this.rows) node.toggleAttribute("data-selected", key === id);
  }
}

// A table of objects with any members: its columns are those that the objects have.
class AnyTable {
  constructor(label, { hidden = [], empty } = {}) {
    Object.assign(this, { label, hidden, empty, node: element("div"), shape: undefined });
  }

  show(items, note) {
    const names = [...new Set(items.flatMap(Object.keys))].filter((name) => !this.hidden.includes(name));
    if (this.shape !== String(names)) {
      this.shape = String(names);
      const has = (name, type) => items.some((item) => !absent(item[name]) && typeof item[name] === type);
      const kindOf = (name) => (has(name, "number") ? "number" : has(name, "object") ? "long" : "");
      const columns = names.map((name) => ({ label: name.replaceAll("_", " "), kind: kindOf(name),
        text: (item) => (isNumber(item[name]) && !Number.isInteger(item[name]) ? number(item[name], 3) : brief(item[name])) }));
      this.table = new Table(this.label, columns, { key: (item) => item[KEY], empty: this.empty });
      this.node.replaceChildren(this.table.node);
    }
    this.table.show(items.map((item, i) => ({ ...item, [KEY]: i })), note);
  }
}
const KEY = Symbol("place");

// The members of an object as a list of terms.
const facts = (object) => element("dl", { class: "facts" }, Object.entries(object).filter(([, value]) => !absent(value) && value !== "")
  .map(([name, value]) => element("div", {}, element("dt", {}, name),
    element("dd", {}, typeof value === "object" ? element("pre", {}, JSON.stringify(value, null, 1)) : String(value)))));
