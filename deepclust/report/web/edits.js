// The changes to one clustering: a list of steps, replayed over what the method found. `deepclust edit` replays the same.
"use strict";
class Edits {
  constructor(method) {
    this.method = method;
    this.steps = [];
    this.replay();
    this.order = this.clusters().map(({ id }) => id); // decides colors, which stay
  }

  replay() {
    this.labels = this.method.cluster.slice();
    this.names = new Map(Object.entries(this.method.names).map(([id, name]) => [Number(id), name]));
    this.marked = new Set();
    this.steps.forEach((step) => this.apply(step));
    this.scores = rescored(this.method, this.labels);
  }

  apply(step) {
    const { labels } = this;
    if (step.step === "rename") step.name ? this.names.set(step.id, step.name) : this.names.delete(step.id);
    else if (step.step === "merge") {
      const merged = new Set(step.ids);
      for (let i = 0; i < N; i++) if (merged.has(labels[i])) labels[i] = step.into;
    } else if (step.step === "move" || step.step === "split") step.samples.forEach((i) => { labels[i] = step.to; });
    else if (step.step === "mark") step.samples.forEach((i) => (step.on ? this.marked.add(i) : this.marked.delete(i)));
  }

  add(step) {
    this.steps.push(step);
    this.apply(step);
    if (!["rename", "mark"].includes(step.step)) this.scores = rescored(this.method, this.labels);
  }

  undo() { this.steps.pop(); this.replay(); }

  // Clusters with members, the largest first; noise, where there is some, comes last.
  clusters() {
    const sizes = new Map();
    for (const id of this.labels) sizes.set(id, (sizes.get(id) || 0) + 1);
    const found = [...sizes].map(([id, size]) => ({ id, size }));
    return found.sort((a, b) => (a.id === NOISE) - (b.id === NOISE) || b.size - a.size || a.id - b.id);
  }

  newId() {
    let most = this.method.highest; // of all samples, more than the page may hold
    for (const id of this.labels) if (id > most) most = id;
    for (const step of this.steps) most = Math.max(most, step.to || 0);
    return most + 1;
  }

  // A name for the file that is another one when the changes are others: a browser calls a second edits.json by another name.
  fileName() {
    let hash = 2166136261;
    for (const letter of this.file()) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619);
    return `edits-${(hash >>> 0).toString(16).padStart(8, "0")}.json`;
  }

  // Whether a sample is where the method put it: what the method thought of it says nothing of where a person has.
  asFound(i) { return this.labels[i] === this.method.cluster[i]; }

  name(id) {
    if (this.names.has(id)) return this.names.get(id);
    return id === NOISE ? "In no cluster" : `Cluster ${id}`;
  }

  color(id) {
    if (id === NOISE) return "#8a9099";
    let place = this.order.indexOf(id);
    if (place < 0) place = this.order.push(id) - 1;
    return paletteColor(place);
  }

  members(id) {
    const found = [];
    for (let i = 0; i < N; i++) if (this.labels[i] === id) found.push(i);
    return found;
  }

  // The file: rows are those of the run, where the page shows a sample of it.
  file() {
    const rows = (samples) => (ROWS ? Array.from(samples, (i) => ROWS[i]) : [...samples]);
    const steps = this.steps.map(({ samples, rest, ...step }) => ({
      ...step,
      ...(samples && { rows: rows(samples) }),
      ...(rest && ROWS && { rest: rows(rest) }), // samples that the page does not hold go with the part that is nearer
    }));
    return JSON.stringify({ deepclust_edits: 1, method: this.method.method, made_of: this.method.made_of, steps }, null, 1);
  }
}
