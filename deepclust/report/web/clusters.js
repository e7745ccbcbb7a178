// The cards: a cluster each, with its name, its members by kind, and what may be done with it.
"use strict";
const CARDS = 24;
const GLANCE = 40;

// Of some samples the one nearest to the center of its cluster.
function typicalOf({ typical }, samples) {
  return samples.reduce((best, i) => (typical[i] > typical[best] ? i : best), samples[0]);
}

class Cards {
  constructor() {
    this.most = CARDS;
    this.ticked = new Set();
    byId("more-cards").onclick = () => { this.most += CARDS; this.draw(); };
  }

  draw() {
    const clusters = app.edits.clusters(), byId_ = new Map();
    app.edits.labels.forEach((id, i) => { if (!byId_.has(id)) byId_.set(id, []); byId_.get(id).push(i); });
    this.ticked = new Set([...this.ticked].filter((id) => byId_.has(id)));
    byId("cards").replaceChildren(...clusters.slice(0, this.most).map(({ id }) => this.card(id, byId_.get(id))));
    this.glance(clusters, byId_);
    byId("more-cards").hidden = clusters.length <= this.most;
    byId("more-cards").textContent = `Show more clusters (${number(clusters.length - this.most)} left)`;
    this.tick();
  }

  glance(clusters, members) {
    const shown = clusters.slice(0, GLANCE).map(({ id, size }) => {
      const thumb = thumbOf(typicalOf(app.edits.scores, members.get(id)), () => app.showCluster(id), `typical of ${app.edits.name(id)}`);
      const name = make("span", {}, make("i", { style: { background: app.edits.color(id) } }), app.edits.name(id), make("br"), counted(size));
      return make("div", { className: "glance" }, thumb, name);
    });
    byId("glance").replaceChildren(...shown, clusters.length > GLANCE ? make("span", { className: "hint" }, `and ${number(clusters.length - GLANCE)} more`) : "");
  }

  card(id, members) {
    const { edits } = app, name = edits.name(id), noise = id === NOISE;
    const input = make("input", {
      type: "text", value: edits.names.get(id) || "", placeholder: name, "aria-label": `Name of ${name}`, maxLength: 80,
      onchange: () => app.change({ step: "rename", id, name: input.value.trim() }),
    });
    const box = make("input", {
      type: "checkbox", checked: this.ticked.has(id), "aria-label": `Tick ${name} to merge it`, title: "Tick two or more to merge them",
      onchange: () => { box.checked ? this.ticked.add(id) : this.ticked.delete(id); this.tick(); },
    });
    const head = make("div", { className: "head" },
      make("span", { className: "swatch", style: { background: edits.color(id) } }),
      noise ? make("b", {}, name) : input, noise ? null : make("label", { className: "merge-box" }, box, "merge"));
    const card = make("article", { className: "card", "aria-label": name }, head,
      make("div", { className: "size" }, this.size(members, id)), ...this.strips(members, noise), this.actions(id, members));
    card.dataset.cluster = id;
    return card;
  }

  size(members, id) {
    const parts = [`${app.sizeOf(members.length)}`];
    const { agreement } = app.method;
    if (agreement && id !== NOISE && !app.edits.scores.changed.has(id)) {
      const share = members.reduce((sum, i) => sum + agreement[i], 0) / members.length / 255;
      parts.push(`heads agree on ${percent(share)}`);
    }
    if (LABELS) {
      const counts = new Map();
      members.forEach((i) => counts.set(LABELS[i], (counts.get(LABELS[i]) || 0) + 1));
      const [label, most] = [...counts].sort((a, b) => b[1] - a[1])[0];
      parts.push(`${percent(most / members.length)} are labeled ${labelName(label)}`);
    }
    return parts.join(" · ");
  }

  strips(members, noise) {
    const words = DATA.texts !== null || DATA.sprites === null, many = words ? 3 : 6, few = words ? 2 : 4;
    const strip = (title, samples, about) => make("div", {},
      make("h4", { title: about }, title),
      make("div", { className: "strip" }, ...samples.map((i) => thumbOf(i, () => app.showCluster(app.edits.labels[i], i), app.about(i)))));
    const typical = app.sorted(members, "typical");
    if (noise) return [strip("Examples", typical.slice(0, 2 * many), "")];
    // A picture is a better example than a file name, where not all samples have one.
    const seen = new Set(typical.slice(0, many)), pictured = (i) => !SLOTS || SLOTS[i] >= 0;
    const unlike = different(typical.slice(many).filter(pictured), [...seen], words ? few : many);
    unlike.forEach((i) => seen.add(i));
    const rest = members.filter((i) => !seen.has(i));
    const border = app.sorted(rest, "borderline").slice(0, few);
    border.forEach((i) => seen.add(i));
    const doubtful = app.sorted(rest.filter((i) => !seen.has(i)), "doubtful").slice(0, few);
    const first = [strip("Most typical", typical.slice(0, many), "Nearest to the center of the cluster")];
    if (unlike.length) first.push(strip("Most different", unlike, "Each as far as possible from the most typical and from those before it"));
    if (!border.length) return first;
    return [...first, make("div", { className: words ? "" : "pair" },
      strip("At the border", border, "Nearly as near to another cluster"),
      doubtful.length ? strip("Doubtful", doubtful, app.method.agreement ? "The heads agree least on these" : "The method is least sure of these") : "")];
  }

  actions(id, members) {
    const row = make("div", { className: "tools actions" },
      make("button", { type: "button", onclick: () => app.showCluster(id) }, `Show all ${number(members.length)}`));
    if (members.length > 1 && id !== NOISE) {
      row.append(make("button", { type: "button", title: "Into the two groups that differ most", onclick: () => app.split(id) }, "Split in two"));
    }
    const near = app.edits.scores.nearest[id];
    if (near !== undefined && near !== id && id !== NOISE) {
      row.append(make("span", { className: "hint" }, "Most like it: ",
        make("button", { type: "button", className: "link", onclick: () => app.showCluster(near) }, app.edits.name(near))));
    }
    return row;
  }

  // Cards and the bar show what is ticked.
  tick() {
    document.querySelectorAll(".card").forEach((card) => card.classList.toggle("chosen", this.ticked.has(Number(card.dataset.cluster))));
    app.bar();
  }

  merge() {
    const ids = app.edits.clusters().map(({ id }) => id).filter((id) => this.ticked.has(id));
    const named = ids.find((id) => app.edits.names.has(id));
    const into = named === undefined ? ids[0] : named;
    this.ticked.clear();
    app.change({ step: "merge", ids, into });
    app.showCluster(into, undefined, { scroll: false });
    this.name(into);
  }

  // To the field with a cluster's name.
  name(id) {
    const input = document.querySelector(`.card[data-cluster="${id}"] input[type=text]`);
    if (input) { input.scrollIntoView({ block: "center" }); input.focus(); input.select(); }
  }
}
