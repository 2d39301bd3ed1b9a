"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Return an element; children are nodes or text, so that no stored text is ever read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// -- light and dark ---------------------------------------------------------------------------------------------------
$("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

// -- charts: the pointer or the arrow keys pick a checkpoint; its numbers are the row of the table below the chart ----
const tip = $("#tip");

function hide(plot) {
  tip.hidden = true;
  $$(".on", plot).forEach((path) => path.classList.remove("on"));
}

function show(plot, index, x) {
  const figure = plot.closest("figure");
  const rows = $$("tbody tr", figure);
  const heads = $$("thead th", figure);
  const row = rows[index];
  if (!row) return;
  hide(plot);
  $$(".hits_marks", plot).forEach((group) => group.children[index]?.classList.add("on"));
  const [step, ...cells] = row.children;
  const list = make("dl");
  cells.forEach((cell, k) => list.append(make("dt", {}, ...heads[k + 1].cloneNode(true).childNodes), make("dd", {}, cell.textContent)));
  tip.replaceChildren(make("strong", {}, step.textContent), list);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const { top, bottom } = plot.getBoundingClientRect();
  const above = top - box.height - 4;
  tip.style.left = `${Math.max(8, Math.min(x - box.width / 2, innerWidth - box.width - 8))}px`;
  tip.style.top = `${above > 60 ? above : Math.min(bottom + 4, innerHeight - box.height - 8)}px`; // next to the plot, never over it
}

for (const plot of $$(".plot")) {
  let at = -1;
  plot.addEventListener("pointermove", (event) => {
    const path = event.target.closest?.(".hits_marks path");
    if (!path) return hide(plot);
    at = [...path.parentNode.children].indexOf(path);
    show(plot, at, event.clientX);
  });
  plot.addEventListener("pointerleave", () => hide(plot));
  plot.addEventListener("blur", () => hide(plot));
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide(plot);
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    const visible = $$(".hits_marks", plot).find((group) => group.getBoundingClientRect().width > 0);
    at = Math.max(0, Math.min(visible.children.length - 1, at + move));
    const box = visible.children[at].getBoundingClientRect();
    show(plot, at, (box.left + box.right) / 2);
  });
}

for (const button of $$("[data-chain]")) {
  button.addEventListener("click", () => {
    $$("[data-chain]").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    $$("[data-chain-grid]").forEach((grid) => (grid.hidden = grid.dataset.chainGrid !== button.dataset.chain));
  });
}

// -- table of drifts: sort by a heading, filter -----------------------------------------------------------------------
const drifts = $("#drifts");
if (drifts) {
  const body = $("tbody", drifts);
  const filter = $("#drift-filter");
  const value = (row, name) => $(`[data-c="${name}"]`, row).dataset.v;

  /** Order two stored values; an absent one comes last whichever way the column is sorted. */
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  };
  const sort = (head, name) => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    $$("th", drifts).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...$$("tr", body).sort((a, b) => compare(value(a, name), value(b, name), descending ? -1 : 1)));
  };
  const choose = () => {
    const form = filter.elements;
    let shown = 0;
    for (const row of $$("tr", body)) {
      const stage = !form.stage.value || row.dataset.stage === form.stage.value;
      const view = !form.view.value || row.dataset.view === form.view.value;
      const resolved = !form.resolved.checked || row.classList.contains("resolved");
      const wanted = form.others.checked || !row.classList.contains("other");
      row.hidden = !(stage && view && resolved && wanted);
      shown += !row.hidden;
    }
    drifts.classList.toggle("one-stage", Boolean(form.stage.value));
    $("#drift-count").textContent = shown ? `${shown} shown` : "none match";
  };
  $$("[data-sort]", drifts).forEach((button) => button.addEventListener("click", () => sort(button.closest("th"), button.dataset.sort)));
  filter.addEventListener("input", choose);
  filter.addEventListener("submit", (event) => event.preventDefault());
  if (innerWidth < 560) filter.elements.stage.selectedIndex = 1; // one stage needs no column for it, so the drift itself is in view
  choose();
}

// -- answers: topic, prompt, draw -------------------------------------------------------------------------------------
const stored = $("#answers-data");
if (stored) {
  const { outcomes, glyphs, stages, columns, prompts } = JSON.parse(stored.textContent);
  const form = $("#browse");
  const { topic: topicBox, prompt: promptBox } = form.elements;
  const steps = new Intl.NumberFormat("en");
  const sides = { 1: "It points along the topic's axis.", "-1": "It points against the topic's axis.", 0: "It is on neither side of the topic's axis." };
  let draw = 0;

  const stance = (cell) => (typeof cell[1] === "number" ? outcomes[cell[1]] : "missing");
  const spoken = (cell) => (typeof cell[1] === "number" ? outcomes[cell[1]] : `no verdict (${cell[1].replace("_", " ")})`);
  const sign = (cell) => (typeof cell[1] === "number" ? glyphs[cell[1]] : "–");
  const edge = (k) => (k === 0 || columns[k][0] !== columns[k - 1][0] ? "edge" : "");
  const several = (prompt) => new Set(prompt.draws.map(([seed]) => seed)).size > 1;
  const drawName = (prompt, [seed, number]) => (several(prompt) ? `seed ${seed}, draw ${number + 1}` : `draw ${number + 1}`);

  const strip = (prompt) => {
    const head = make("tr", {}, make("td"));
    stages.forEach((stage, s) => {
      const span = columns.filter(([k]) => k === s).length;
      if (span) head.append(make("th", { colspan: span, scope: "colgroup", class: "edge" }, stage.name));
    });
    const numbers = make("tr", {}, make("td"), ...columns.map(([, step], k) => make("th", { scope: "col", class: edge(k) }, steps.format(step))));
    const lines = prompt.draws.map((entry, d) => {
      const button = make("button", { type: "button", "aria-pressed": String(d === draw) }, drawName(prompt, entry));
      button.addEventListener("click", () => { draw = d; render(); $$("#strip button")[d].focus(); });
      const cells = entry[2].map((cell, k) => {
        const text = cell ? `${stages[columns[k][0]].name} step ${steps.format(columns[k][1])}: ${spoken(cell)}` : "no answer";
        const mark = make("span", { class: cell ? stance(cell) : "missing", role: "img", "aria-label": text, title: text }, cell ? sign(cell) : "·");
        return make("td", { class: edge(k) }, mark);
      });
      return make("tr", { class: d === draw ? "chosen" : "" }, make("th", { scope: "row" }, button), ...cells);
    });
    $("#strip").replaceChildren(make("thead", {}, head, numbers), make("tbody", {}, ...lines));
  };

  const answer = (prompt, cell, at) => {
    const sure = typeof cell[1] === "number" && cell[2] < 100 ? `, p ${(cell[2] / 100).toFixed(2)}` : "";
    const read = make("span", { class: `outcome ${stance(cell)}` }, `${sign(cell)} ${spoken(cell)}${sure}`);
    const label = `${at.length > 1 ? "steps" : "step"} ${at.map((step) => steps.format(step)).join(", ")}`;
    const text = prompt.texts[cell[0]];
    const words = text.trim() ? make("p", { dir: "auto" }, text) : make("p", { class: "missing" }, "(empty answer)");
    return make("div", { class: `answer ${stance(cell)}` }, make("div", { class: "at" }, make("span", {}, label), read), words);
  };

  /** Answers of one stage in order; neighbours with the same words appear once, with all their steps. */
  const texts = (prompt) => {
    const cells = prompt.draws[draw][2];
    const parts = stages.map((stage, s) => {
      const groups = [];
      columns.forEach(([k, step], c) => {
        if (k !== s || !cells[c]) return;
        const last = groups.at(-1);
        if (last && String(last.cell) === String(cells[c])) last.at.push(step);
        else groups.push({ cell: cells[c], at: [step] });
      });
      return groups.length ? make("div", {}, make("h3", {}, stage.name), ...groups.map(({ cell, at }) => answer(prompt, cell, at))) : "";
    });
    $("#texts").replaceChildren(...parts);
  };

  const render = () => {
    const prompt = prompts[promptBox.value];
    draw = Math.min(draw, prompt.draws.length - 1);
    $("#question").textContent = prompt.text;
    $("#claim").textContent = `Stances refer to the claim: “${prompt.claim}”`;
    $("#polarity").textContent = sides[prompt.polarity] ?? "";
    strip(prompt);
    texts(prompt);
  };
  const fill = () => {
    const options = prompts.flatMap((prompt, k) => (prompt.topic === topicBox.value ? [make("option", { value: k }, prompt.text)] : []));
    promptBox.replaceChildren(...options);
    render();
  };
  topicBox.append(...[...new Set(prompts.map((prompt) => prompt.topic))].map((topic) => make("option", { value: topic }, topic)));
  topicBox.addEventListener("change", fill);
  promptBox.addEventListener("change", render);
  form.addEventListener("submit", (event) => event.preventDefault());
  $$("[data-go]").forEach((button) => button.addEventListener("click", () => {
    const n = promptBox.options.length;
    promptBox.selectedIndex = (promptBox.selectedIndex + Number(button.dataset.go) + n) % n;
    render();
  }));
  fill();
}
