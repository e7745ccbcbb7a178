// The page: one state, which the map, the cards and the gallery show.
"use strict";
const ORDERS = { typical: "most typical first", borderline: "border first", doubtful: "doubtful first", row: "as they came" };
const LIST_LENGTH = 200;

const app = {
  all: METHODS.map((method) => new Edits(method)),
  place: 0,
  get edits() { return this.all[this.place]; },
  get method() { return METHODS[this.place]; },

  sizeOf(n) { return `${counted(n)} · ${percent(n / N)}`; },

  // What is known of a sample, in few words.
  about(i) {
    const { edits, method } = this, words = [edits.name(edits.labels[i])];
    if (LABELS) words.push(`labeled ${labelName(LABELS[i])}`);
    if (method.confidence && edits.asFound(i)) words.push(`${Math.round(method.confidence[i] / 2.55)} % sure`);
    return words.join(", ");
  },

  doubt(i) {
    const { agreement, confidence } = this.method, found = this.edits.asFound(i);
    return (agreement && found ? agreement[i] : 255) + (confidence && found ? confidence[i] / 256 : 0.999) + this.edits.scores.margin[i] / 1000;
  },

  sorted(samples, order) {
    const { typical, margin } = this.edits.scores;
    const key = { typical: (i) => -typical[i], borderline: (i) => margin[i], doubtful: (i) => this.doubt(i), row: (i) => i }[order];
    return Array.from(samples).sort((a, b) => key(a) - key(b) || a - b);
  },

  showCluster(id, first, options) {
    const samples = this.edits.members(id);
    gallery.show({ title: this.edits.name(id), note: this.sizeOf(samples.length), samples, first, cluster: id }, options);
  },

  // The larger part keeps the cluster's number and name.
  split(id) {
    const { edits } = this, parts = halves(edits.members(id)), to = edits.newId(), name = edits.name(id);
    this.showCluster(id);
    if (!parts) { byId("gallery-note").textContent = `These ${DATA.noun} are all alike: there is nothing to split.`; return; }
    this.change({ step: "split", id, samples: parts[1], to, ...(ROWS && { rest: parts[0] }) });
    gallery.show({ title: `${name} in two parts`, note: `The most typical ${DATA.noun} of each. Undo puts them together again.`, parts: [id, to] });
  },

  // --- the map ---

  light(samples) {
    scatter.lit = null;
    if (samples) { scatter.lit = new Uint8Array(N); samples.forEach((i) => { scatter.lit[i] = 1; }); }
    scatter.draw();
  },

  // Ring a sample's dot.
  point(i) {
    if (scatter.ring === i) return;
    scatter.ring = i;
    scatter.draw();
  },

  hover(i, x, y) {
    byId("scatter").style.cursor = i < 0 ? "" : "pointer";
    const frame = byId("scatter").getBoundingClientRect();
    this.tip(i, frame.left + x, frame.top + y);
  },

  // A thumbnail larger, and what it is.
  preview(i, button) {
    const box = button.getBoundingClientRect();
    if (SLOTS && SLOTS[i] >= 0) this.tip(i, box.right - 10, box.bottom - 10);
  },

  // A sample beside a place of the window; -1 shows none.
  tip(i, x, y) {
    const tip = byId("tip");
    tip.hidden = i < 0;
    if (i < 0) return;
    const thumb = SLOTS && SLOTS[i] >= 0 ? thumbOf(i, () => {}) : null;
    if (thumb) { thumb.style.setProperty("--size", `${Math.max(96, DATA.sprites.side)}px`); thumb.tabIndex = -1; }
    const { edits } = this;
    tip.replaceChildren(...[thumb, make("div", {}, DATA.texts ? DATA.texts[i].slice(0, 200) : sampleName(i)),
      make("div", { className: "hint" }, this.about(i)),
      edits.marked.has(i) ? make("div", {}, "★ marked") : null].filter(Boolean));
    const { clientWidth, clientHeight } = document.documentElement;
    tip.style.left = `${Math.max(4, Math.min(x + 14, clientWidth - tip.offsetWidth - 6))}px`;
    tip.style.top = `${y + 14 + tip.offsetHeight > clientHeight ? Math.max(4, y - tip.offsetHeight - 10) : y + 14}px`;
  },

  colors() {
    const choice = byId("color").value, legend = [], { edits, method } = this, colors = scatter.colors;
    const shade = (values, most) => {
      // From orange through gray to blue: told apart without seeing red and green.
      for (let i = 0; i < N; i++) {
        const share = Math.min(1, Math.max(0, values[i] / most));
        colors[i] = pixelOf(share < 0.5 ? mixed("#d95f02", "#b8bcc2", 2 * share) : mixed("#b8bcc2", "#2166ac", 2 * share - 1));
      }
      legend.push(["#d95f02", "unsure"], ["#2166ac", "sure"]);
    };
    const classes = (values, colorOf, nameOf) => {
      const counts = new Map();
      values.forEach((value) => counts.set(value, (counts.get(value) || 0) + 1));
      const order = [...counts].sort((a, b) => b[1] - a[1]).map(([value]) => value);
      const pixels = new Map(order.map((value, place) => [value, pixelOf(colorOf(value, place))]));
      for (let i = 0; i < N; i++) colors[i] = pixels.get(values[i]);
      order.slice(0, 12).forEach((value, place) => legend.push([colorOf(value, place), nameOf(value)]));
      if (order.length > 12) legend.push([null, `and ${order.length - 12} more`]);
    };
    if (choice === "confidence") shade(method.confidence, 255);
    else if (choice === "agreement") shade(method.agreement, 255);
    else if (choice === "label") classes(LABELS, (value, place) => paletteColor(place), labelName);
    else {
      const other = choice === "cluster" ? edits : this.all[Number(choice)];
      classes(other.labels, (id) => other.color(id), (id) => other.name(id));
    }
    byId("legend").replaceChildren(...legend.map(([color, name]) =>
      make("span", {}, color && make("i", { style: { background: color } }), name)));
    scatter.draw();
  },

  // --- changes ---

  change(step) { this.edits.add(step); this.keep(); this.redraw(); },

  undo() { this.edits.undo(); this.keep(); this.redraw(); },

  redraw() { this.headline(); cards.draw(); gallery.refresh(); this.colors(); compare(); this.bar(); },

  bar() {
    const { steps } = this.edits, ticked = cards.ticked.size;
    const changes = `${steps.length} ${steps.length === 1 ? "change" : "changes"}`;
    byId("bar").hidden = !steps.length && ticked < 1;
    byId("bar-text").textContent = ticked === 1 ? "1 cluster ticked: tick another one to merge them" : steps.length ? changes : "";
    byId("merge").hidden = ticked < 2;
    byId("merge").textContent = `Merge the ${ticked} ticked clusters`;
    byId("undo").hidden = !steps.length;
    document.querySelectorAll(".download").forEach((button) => { button.disabled = !steps.length; });
    document.querySelector("#bar .download").hidden = !steps.length;
    document.querySelector(".n-steps").textContent = changes;
    if (DATA.run) byId("command").textContent = `deepclust edit run=${quoted(DATA.run)}${steps.length ? ` edits=$HOME/Downloads/${this.edits.fileName()}` : ""}`;
  },

  // Changes outlive the page, where the browser lets a file keep something.
  keep() {
    try { localStorage.setItem(`deepclust ${this.method.made_of}`, JSON.stringify(this.edits.steps)); } catch { /* not kept */ }
  },

  recall() {
    this.all.forEach((edits) => {
      try {
        const steps = JSON.parse(localStorage.getItem(`deepclust ${edits.method.made_of}`) || "[]");
        edits.steps = steps;
        edits.replay();
      } catch { edits.steps = []; edits.replay(); }
    });
  },

  download() {
    const link = make("a", { href: `data:application/json,${encodeURIComponent(this.edits.file())}`, download: this.edits.fileName() });
    document.body.append(link);
    link.click();
    link.remove();
    byId("bar-text").replaceChildren("Saved. ", make("a", { href: "#finish" }, "What to do with it"));
  },

  headline() {
    const clusters = this.edits.clusters(), noise = clusters.find(({ id }) => id === NOISE), n = clusters.length - (noise ? 1 : 0);
    byId("headline").textContent = `${number(n)} clusters by ${this.method.title}` + (noise ? `; ${counted(noise.size)} in no cluster` : "");
  },

  search(words) {
    const asked = words.trim().toLowerCase();
    if (!asked) return gallery.clear();
    const { edits } = this, found = [];
    const row = /^#?\d+$/.test(asked) ? Number(asked.replace("#", "")) : -1;
    for (let i = 0; i < N; i++) {
      const texts = [sampleName(i), edits.name(edits.labels[i]), DATA.texts && DATA.paths ? DATA.paths[i] : "", LABELS ? labelName(LABELS[i]) : ""];
      if ((ROWS ? ROWS[i] : i) === row || texts.some((text) => text.toLowerCase().includes(asked))) found.push(i);
    }
    gallery.show({ title: `Search: ${words.trim()}`, note: found.length ? counted(found.length) : `No ${DATA.noun} with these words.`, samples: found }, { scroll: false });
  },
};

function mixed(from, to, share) {
  const part = (start) => {
    const a = parseInt(from.slice(start, start + 2), 16), b = parseInt(to.slice(start, start + 2), 16);
    return Math.round(a + (b - a) * share).toString(16).padStart(2, "0");
  };
  return `#${part(1)}${part(3)}${part(5)}`;
}

// A word for the shell.
function quoted(word) { return /^[\w@%+=:,./-]+$/.test(word) ? word : `'"${word.replace(/"/g, '\\"')}"'`; }

// --- lists ---

function lists() {
  const found = [], everyone = [...Array(N).keys()];
  if (DATA.duplicates.length) {
    const n = DATA.duplicates.reduce((sum, group) => sum + group.length, 0);
    found.push(["Near duplicates", `${counted(n)} in ${DATA.duplicates.length} groups`, () => ({ groups: DATA.duplicates })]);
  }
  if (OUTLIERS) {
    found.push(["Like no other", `the ${DATA.noun} farthest from all others`, () => ({
      ordered: true, samples: everyone.sort((a, b) => OUTLIERS[b] - OUTLIERS[a]).slice(0, Math.min(LIST_LENGTH, Math.ceil(N / 20))) })]);
  }
  found.push(["Doubtful", app.method.agreement ? "those that the heads agree on least" : "those that the method is least sure of", () => ({
    ordered: true, samples: app.sorted([...Array(N).keys()], "doubtful").slice(0, Math.min(LIST_LENGTH, Math.ceil(N / 5))) })]);
  if (LABELS) {
    found.push(["Label or cluster wrong?", "typical of a cluster, but labeled otherwise than most of it", () => {
      const most = new Map();
      app.edits.clusters().forEach(({ id }) => {
        const counts = new Map();
        app.edits.members(id).forEach((i) => counts.set(LABELS[i], (counts.get(LABELS[i]) || 0) + 1));
        most.set(id, [...counts].sort((a, b) => b[1] - a[1])[0][0]);
      });
      const odd = [...Array(N).keys()].filter((i) => app.edits.labels[i] !== NOISE && LABELS[i] !== most.get(app.edits.labels[i]));
      return { ordered: true, samples: app.sorted(odd, "typical").slice(0, LIST_LENGTH) };
    }]);
  }
  found.push(["Marked", "those that you marked", () => ({ ordered: true, samples: [...app.edits.marked] })]);
  byId("list-buttons").replaceChildren(...found.map(([title, note, samples]) =>
    make("button", { type: "button", onclick: () => gallery.show({ title, note, ...samples() }) }, make("b", {}, title), make("span", {}, note))));
}

// --- two methods side by side ---

const COMPARED = 12, COMPARED_WITH = 16;

function compare() {
  if (METHODS.length < 2) return;
  const [a, b] = ["compare-a", "compare-b"].map((id) => app.all[Number(byId(id).value)]);
  const rows = a.clusters().slice(0, COMPARED), counts = new Map();
  for (let i = 0; i < N; i++) {
    const key = `${a.labels[i]} ${b.labels[i]}`;
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  const count = (one, other) => counts.get(`${one} ${other}`) || 0;
  // Columns in the order of the rows that they share most with, so that what agrees lies on the diagonal.
  const all = b.clusters(), left = new Set(all.map(({ id }) => id)), columns = [];
  rows.forEach(({ id }) => {
    const best = [...left].sort((x, y) => count(id, y) - count(id, x))[0];
    if (best !== undefined && count(id, best)) { columns.push(best); left.delete(best); }
  });
  const more = [...left].slice(0, Math.max(0, COMPARED_WITH - columns.length));
  const shown = [...columns, ...more];
  const together = a.clusters().reduce((sum, { id }) => sum + Math.max(...all.map((other) => count(id, other.id))), 0);
  const left_out = a.clusters().length - rows.length;
  byId("compare-words").textContent = `${percent(together / N)} of the ${DATA.noun} lie in the column where most of their row lies.` +
    (left_out > 0 ? ` The ${rows.length} largest clusters are shown; ${left_out} more are not.` : "");
  const most = Math.max(1, ...rows.map(({ size }) => size));
  // Numbers of clusters mean nothing to another method: pictures say what is meant.
  const heading = (edits, id, scope) => {
    const words = make("span", {}, edits.name(id));
    const i = typicalOf(edits.scores, edits.members(id)), pictured = SLOTS && SLOTS[i] >= 0;
    const open = () => gallery.show({ title: `${edits.name(id)} of ${edits.method.title}`, samples: edits.members(id) });
    return make("th", { scope, title: edits.name(id) }, pictured ? thumbOf(i, open, edits.name(id)) : null, words);
  };
  const table = make("table", {}, make("caption", { className: "hint" }, `${a.method.title} in rows, ${b.method.title} in columns`),
    make("tr", {}, make("td"), ...shown.map((id) => heading(b, id, "col"))),
    ...rows.map(({ id }) => make("tr", {}, heading(a, id, "row"),
      ...shown.map((other) => {
        const n = count(id, other);
        if (!n) return make("td");
        const cell = make("td", { style: { background: `rgba(66,105,208,${0.08 + 0.5 * Math.min(1, n / most)})` } });
        cell.append(make("button", { type: "button", "aria-label": `${counted(n)} in ${a.name(id)} and ${b.name(other)}`, onclick: () => {
          const samples = [];
          for (let i = 0; i < N; i++) if (a.labels[i] === id && b.labels[i] === other) samples.push(i);
          gallery.show({ title: `${a.name(id)} and ${b.name(other)}`, note: `${counted(n)} in both`, samples });
        } }, number(n)));
        return cell;
      }))));
  byId("confusion").replaceChildren(table);
}

// --- start ---

const scatter = new Scatter(byId("scatter"), PLACES, {
  hover: (i, x, y) => app.hover(i, x, y),
  click: (i) => (i < 0 ? gallery.clear() : app.showCluster(app.edits.labels[i], i, { scroll: false })),
  lasso: (samples) => {
    if (samples.length) gallery.show({ title: "Lasso", note: app.sizeOf(samples.length), samples }, { scroll: false });
  },
});
const gallery = new Gallery();
const cards = new Cards();

function colorChoices() {
  const choices = [["cluster", "by cluster"]];
  if (app.method.agreement) choices.push(["agreement", "by agreement"]);
  if (app.method.confidence) choices.push(["confidence", "by confidence"]);
  if (LABELS) choices.push(["label", "by label"]);
  METHODS.forEach((method, place) => { if (place !== app.place) choices.push([place, `by ${method.title}`]); });
  byId("color").replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
}

byId("glance").classList.toggle("as-words", DATA.texts !== null || DATA.sprites === null);
byId("order").replaceChildren(...Object.entries(ORDERS).map(([value, text]) => make("option", { value }, text)));
byId("color").onchange = () => app.colors();
byId("lasso").onclick = (event) => {
  scatter.drawing = !scatter.drawing;
  event.target.setAttribute("aria-pressed", scatter.drawing);
  byId("scatter").classList.toggle("drawing", scatter.drawing);
};
byId("zoom-in").onclick = () => scatter.zoomAt(1.5);
byId("zoom-out").onclick = () => scatter.zoomAt(1 / 1.5);
byId("whole").onclick = () => scatter.whole();
byId("undo").onclick = () => app.undo();
byId("merge").onclick = () => cards.merge();
byId("search").oninput = (event) => app.search(event.target.value);
document.querySelectorAll(".download").forEach((button) => { button.onclick = () => app.download(); });
if (DATA.run) byId("copy").onclick = () => {
  getSelection().selectAllChildren(byId("command"));
  document.execCommand("copy");
  byId("copy").textContent = "Copied";
};
if (METHODS.length > 1) {
  const options = () => METHODS.map((method, place) => make("option", { value: place }, method.title));
  byId("method").replaceChildren(...options());
  byId("method").onchange = (event) => {
    app.place = Number(event.target.value);
    byId("findings").replaceChildren(...app.method.findings.map(([level, title, text]) =>
      make("li", { className: level }, make("b", {}, title), ` ${text}`)));
    byId("why").textContent = `The clusters are those of ${app.method.title}.`;
    gallery.clear();
    cards.ticked.clear();
    colorChoices();
    lists();
    app.redraw();
  };
  for (const [id, place] of [["compare-a", 0], ["compare-b", 1]]) {
    byId(id).replaceChildren(...options());
    byId(id).value = place;
    byId(id).onchange = compare;
  }
}
app.recall();
colorChoices();
lists();
app.redraw();
