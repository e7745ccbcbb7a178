// Thumbnails, and the panel that pages through any set of samples.
"use strict";
const PER_PAGE = 60;
const PER_PART = DATA.texts !== null || DATA.sprites === null ? 4 : 12; // of a cluster that was split: both parts are seen at once

// A sample as a button: its picture, or its words. Its cluster's name is told by whoever puts it somewhere.
function thumbOf(i, click, about = "") {
  const named = sampleName(i), described = about ? `${named}, ${about}` : named;
  const button = make("button", { type: "button", className: "thumb", title: described, onclick: () => click(i) });
  button.dataset.sample = i;
  button.addEventListener("mouseenter", () => { app.point(i); app.preview(i, button); });
  button.addEventListener("focus", () => app.point(i));
  button.addEventListener("mouseleave", () => { app.point(-1); app.tip(-1); });
  button.addEventListener("blur", () => app.point(-1));
  const slot = SLOTS ? SLOTS[i] : -1;
  if (slot >= 0) {
    const { columns, per_sheet } = DATA.sprites, place = slot % per_sheet;
    button.classList.add(`sheet${Math.floor(slot / per_sheet)}`);
    button.style.backgroundSize = `calc(var(--size) * ${columns})`;
    const [x, y] = [place % columns, Math.floor(place / columns)];
    button.style.backgroundPosition = `calc(var(--size) * ${-x}) calc(var(--size) * ${-y})`;
    button.setAttribute("aria-label", DATA.noun === "images" ? `Image ${described}` : described);
  } else {
    const words = DATA.texts !== null || DATA.sprites === null;
    button.classList.add(words ? "words" : "small-words");
    button.textContent = DATA.texts ? DATA.texts[i].slice(0, 300) : words ? named : fileName(named);
  }
  return button;
}

class Gallery {
  constructor() {
    this.picked = new Set();
    this.shown = null;
    byId("previous").onclick = () => this.turn(-1);
    byId("next").onclick = () => this.turn(1);
    byId("unpick").onclick = () => { this.picked.clear(); this.draw(); };
    byId("order").onchange = () => { this.page = 0; this.draw(); };
    byId("move").onchange = () => this.move();
    byId("mark").onclick = () => this.mark();
    byId("rename").onchange = () => app.change({ step: "rename", id: this.shown.cluster, name: byId("rename").value.trim() });
    byId("split").onclick = () => app.split(this.shown.cluster);
  }

  // Show samples: {title, note, samples, first (a sample), groups (arrays instead of samples), parts (clusters instead), ordered}.
  show(shown, { scroll = true } = {}) {
    const groups = shown.parts ? shown.parts.map((id) => app.sorted(app.edits.members(id), "typical").slice(0, PER_PART)) : shown.groups;
    this.shown = { ...shown, groups, samples: groups ? groups.flat() : shown.samples };
    this.page = 0;
    this.picked.clear();
    byId("order-label").hidden = Boolean(shown.ordered || groups);
    byId("order").value = "typical";
    this.draw();
    app.light(this.shown.samples);
    const panel = byId("gallery");
    panel.scrollTop = 0;
    if (scroll && getComputedStyle(panel).position === "static") panel.scrollIntoView({ behavior: "smooth" });
  }

  // The same set again, after a change; a cluster has gained or lost members.
  refresh() {
    if (!this.shown) return;
    const { cluster, parts } = this.shown;
    if (parts && parts.some((id) => !app.edits.members(id).length)) return app.showCluster(parts[0], undefined, { scroll: false });
    if (parts) return this.show(this.shown, { scroll: false });
    if (cluster !== undefined) {
      const samples = app.edits.members(cluster);
      if (!samples.length) return this.clear();
      Object.assign(this.shown, { samples, title: app.edits.name(cluster), note: app.sizeOf(samples.length) });
    }
    this.draw();
    app.light(this.shown.samples);
  }

  clear() {
    this.shown = null;
    this.picked.clear();
    byId("gallery-title").textContent = "Members";
    byId("gallery-note").textContent = `Click a dot, a cluster or a list: its ${DATA.noun} appear here.`;
    byId("items").replaceChildren();
    app.tip(-1);
    byId("gallery-tools").hidden = byId("pages").hidden = true;
    app.light(null);
  }

  ordered() {
    const { samples, first, ordered, groups } = this.shown;
    if (ordered || groups) return samples;
    const found = app.sorted(samples, byId("order").value);
    return first === undefined ? found : [first, ...found.filter((i) => i !== first)];
  }

  draw() {
    if (!this.shown) return;
    const samples = this.ordered(), pages = Math.max(1, Math.ceil(samples.length / PER_PAGE));
    this.page = Math.min(this.page, pages - 1);
    const page = samples.slice(this.page * PER_PAGE, (this.page + 1) * PER_PAGE);
    byId("gallery-title").textContent = this.shown.title;
    byId("gallery-note").textContent = this.shown.note || counted(samples.length);
    const items = byId("items");
    items.classList.toggle("as-words", DATA.texts !== null || DATA.sprites === null);
    const groupOf = new Map();
    (this.shown.groups || []).forEach((group, place) => group.forEach((i) => groupOf.set(i, place)));
    let last = -1;
    items.replaceChildren();
    app.tip(-1);
    page.forEach((i) => {
      const group = groupOf.get(i);
      if (group !== undefined && group !== last) {
        last = group;
        items.append(make("div", { className: "group" }, ...this.heading(group)));
      }
      const thumb = thumbOf(i, () => this.pick(i), app.about(i));
      thumb.setAttribute("aria-pressed", this.picked.has(i));
      thumb.classList.toggle("marked", app.edits.marked.has(i));
      items.append(thumb);
    });
    byId("pages").hidden = pages === 1;
    byId("page-number").textContent = `Page ${this.page + 1} of ${pages}`;
    byId("previous").disabled = this.page === 0;
    byId("next").disabled = this.page === pages - 1;
    this.tools();
  }

  // What stands over a group of samples.
  heading(group) {
    if (!this.shown.parts) return [`Group ${group + 1}: ${counted(this.shown.groups[group].length)}`];
    const id = this.shown.parts[group], n = app.edits.members(id).length;
    return [make("b", {}, app.edits.name(id)), ` ${counted(n)} `, make("button", { type: "button", onclick: () => app.showCluster(id) }, "Show all, name it")];
  }

  // The cluster that is shown as a whole, nothing of it ticked.
  get whole() {
    const { cluster } = this.shown;
    return cluster === undefined || cluster === NOISE || this.picked.size ? null : cluster;
  }

  tools() {
    const { whole } = this, n = this.picked.size || this.shown.samples.length;
    byId("gallery-tools").hidden = this.shown.samples.length === 0 || Boolean(this.shown.parts && !this.picked.size);
    byId("rename-label").hidden = whole === null;
    byId("rename").value = (whole !== null && app.edits.names.get(whole)) || "";
    byId("rename").placeholder = whole === null ? "" : app.edits.name(whole);
    byId("split").hidden = whole === null || n < 2;
    byId("tick-hint").hidden = this.picked.size > 0;
    const which = this.picked.size ? `the ${this.picked.size} ticked` : `all ${number(n)}`;
    byId("move-label").textContent = whole === null ? `Move ${which} to` : "Merge it into";
    byId("mark").textContent = this.targets().every((i) => app.edits.marked.has(i)) ? `Unmark ${which}` : `Mark ${which}`;
    byId("unpick").hidden = this.picked.size === 0;
    const others = app.edits.clusters().filter(({ id }) => id !== whole);
    const options = others.map(({ id }) => make("option", { value: id }, app.edits.name(id)));
    if (whole === null) options.unshift(make("option", { value: "new" }, "a new cluster"));
    byId("move").replaceChildren(make("option", { value: "" }, "…"), ...options);
  }

  targets() { return this.picked.size ? [...this.picked] : this.shown.samples; }

  pick(i) {
    this.picked.has(i) ? this.picked.delete(i) : this.picked.add(i);
    const thumb = byId("items").querySelector(`[data-sample="${i}"]`);
    thumb.setAttribute("aria-pressed", this.picked.has(i));
    this.tools();
  }

  move() {
    const chosen = byId("move").value;
    if (chosen === "") return;
    const to = chosen === "new" ? app.edits.newId() : Number(chosen), samples = this.targets(), { whole } = this;
    if (whole !== null) {
      app.change({ step: "merge", ids: [whole, to], into: to });
      return app.showCluster(to);
    }
    this.picked.clear();
    app.change({ step: "move", samples, to });
    if (chosen === "new") { app.showCluster(to); byId("rename").focus(); }
  }

  mark() {
    const samples = this.targets();
    app.change({ step: "mark", samples, on: !samples.every((i) => app.edits.marked.has(i)) });
  }

  turn(by) { this.page += by; this.draw(); byId("gallery").scrollTop = 0; }
}
