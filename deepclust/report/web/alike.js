// How alike samples are, by a few numbers of each: what splits a cluster in two and finds members that differ.
"use strict";
const DIM = VECTORS.length / N;
const MOST_COMPARED = 2000;

// Two-means of some samples, started from the two sides of their center along the direction in which they vary most.
// Gives both parts, the larger first; null where all are alike.
function halves(samples) {
  const mean = meanOf(samples), axis = mainAxis(samples, mean);
  const middle = axis.reduce((sum, value, d) => sum + value * mean[d], 0);
  let side = samples.map((i) => dot(i, axis) > middle);
  for (let round = 0; ; round++) {
    const parts = [true, false].map((one) => samples.filter((_, place) => side[place] === one));
    if (!parts[0].length || !parts[1].length) return null;
    const [left, right] = parts.map(meanOf);
    const next = samples.map((i) => distance(i, left) < distance(i, right));
    if (round === 50 || next.every((one, place) => one === side[place])) return parts.sort((one, other) => other.length - one.length);
    side = next;
  }
}

// Of some samples those farthest from what was taken before, beginning with `from`: farthest first.
function different(samples, from, count) {
  const step = Math.max(1, samples.length / MOST_COMPARED), left = [];
  for (let place = 0; place < samples.length; place += step) left.push(samples[Math.floor(place)]);
  const nearest = new Float64Array(left.length).fill(Infinity), found = [];
  const compare = (i) => {
    const own = Array.from(VECTORS.subarray(i * DIM, (i + 1) * DIM));
    left.forEach((j, place) => { nearest[place] = Math.min(nearest[place], distance(j, own)); });
  };
  from.forEach(compare);
  while (found.length < Math.min(count, left.length)) {
    const place = nearest.reduce((best, value, at) => (value > nearest[best] ? at : best), 0);
    if (!(nearest[place] > 0)) break; // the others are equal to one that is shown
    found.push(left[place]);
    compare(left[place]);
  }
  return found;
}

// How well samples fit the clusters that were changed: how typical each is, and how far from the border. It is measured as
// the page's writer measured the found clusters, but by the few numbers. Members of other clusters keep what was measured.
function rescored({ cluster, typical, margin, nearest }, labels) {
  const changed = new Set();
  labels.forEach((id, i) => { if (id !== cluster[i]) changed.add(id).add(cluster[i]); });
  if (!changed.size) return { typical, margin, nearest, changed };
  const found = { typical: typical.slice(), margin: margin.slice(), nearest: { ...nearest }, changed }, centers = centersOf(labels);
  labels.forEach((id, i) => {
    if (!changed.has(id)) return;
    let other = -Infinity;
    centers.forEach((center, one) => { if (one !== id) other = Math.max(other, dot(i, center)); });
    const own = id === NOISE ? other : dot(i, centers.get(id));
    found.typical[i] = Math.max(own, -1);
    found.margin[i] = id === NOISE || other === -Infinity ? 0 : own - other;
  });
  centers.forEach((own, id) => {
    if (!changed.has(id) && !changed.has(nearest[id])) return;
    let most = -Infinity;
    found.nearest[id] = id;
    centers.forEach((center, one) => {
      const cosine = own.reduce((sum, value, d) => sum + value * center[d], 0);
      if (one !== id && cosine > most) { most = cosine; found.nearest[id] = one; }
    });
  });
  return found;
}

// The direction of each cluster's members, such that `dot` gives a cosine.
function centersOf(labels) {
  const centers = new Map();
  labels.forEach((id, i) => {
    if (id === NOISE) return;
    if (!centers.has(id)) centers.set(id, new Float64Array(DIM));
    const center = centers.get(id);
    for (let d = 0; d < DIM; d++) center[d] += VECTORS[i * DIM + d];
  });
  centers.forEach((center) => {
    const length = Math.hypot(...center) * DATA.length || 1;
    for (let d = 0; d < DIM; d++) center[d] /= length;
  });
  return centers;
}

function dot(i, vector) {
  let sum = 0;
  for (let d = 0; d < DIM; d++) sum += VECTORS[i * DIM + d] * vector[d];
  return sum;
}

function distance(i, vector) {
  let sum = 0;
  for (let d = 0; d < DIM; d++) sum += (VECTORS[i * DIM + d] - vector[d]) ** 2;
  return sum;
}

function meanOf(samples) {
  const mean = new Array(DIM).fill(0);
  for (const i of samples) for (let d = 0; d < DIM; d++) mean[d] += VECTORS[i * DIM + d] / samples.length;
  return mean;
}

// The first principal direction, by power iteration from the coordinate that varies most.
function mainAxis(samples, mean) {
  const covariance = Array.from({ length: DIM }, () => new Array(DIM).fill(0));
  for (const i of samples) {
    for (let a = 0; a < DIM; a++) for (let b = 0; b < DIM; b++) {
      covariance[a][b] += (VECTORS[i * DIM + a] - mean[a]) * (VECTORS[i * DIM + b] - mean[b]);
    }
  }
  const widest = covariance.reduce((best, row, a) => (row[a] > covariance[best][best] ? a : best), 0);
  let axis = covariance.map((_, a) => (a === widest ? 1 : 0));
  for (let round = 0; round < 100; round++) {
    const next = covariance.map((row) => row.reduce((sum, value, d) => sum + value * axis[d], 0));
    const length = Math.hypot(...next);
    if (!length) break;
    axis = next.map((value) => value / length);
  }
  return axis;
}
