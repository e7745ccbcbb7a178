// What the page holds, unpacked: typed arrays by sample, and a class per clustering with the changes made to it.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);

function unpacked(text, Kind) {
  if (text === null) return null;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Kind(bytes.buffer);
}

const N = DATA.n;
const PLACES = unpacked(DATA.xy, Uint16Array); // x of sample i at 2 i, y at 2 i + 1
const LABELS = unpacked(DATA.labels, Int32Array);
const VECTORS = unpacked(DATA.vectors, Int8Array); // some numbers of each sample, one sample after another
const OUTLIERS = unpacked(DATA.outliers, Float32Array);
const ROWS = unpacked(DATA.rows, Int32Array); // row in the run of each sample; null where they are the same
const SLOTS = DATA.sprites && unpacked(DATA.sprites.slot, Int32Array);
const METHODS = DATA.methods.map((method) => ({
  ...method,
  cluster: unpacked(method.cluster, Int32Array),
  second: unpacked(method.second, Int32Array),
  typical: unpacked(method.typical, Float32Array),
  margin: unpacked(method.margin, Float32Array),
  confidence: unpacked(method.confidence, Uint8Array),
  agreement: unpacked(method.agreement, Uint8Array),
}));
const NOISE = -1;

const number = (value) => value.toLocaleString("en-US");
const percent = (share) => (share > 0 && share < 0.01 ? "<1 %" : `${Math.round(100 * share)} %`);
const counted = (n) => `${number(n)} ${n === 1 ? DATA.noun.replace(/s$/, "") : DATA.noun}`;
const fileName = (path) => path.split(/[\\/]/).pop();

function labelName(label) {
  return (DATA.class_names && DATA.class_names[label]) || `label ${label}`;
}

// How a sample is called: its text, its file, or its row.
function sampleName(i) {
  if (DATA.texts) return DATA.texts[i];
  if (DATA.paths) return DATA.paths[i];
  return `row ${ROWS ? ROWS[i] : i}`;
}

// The first ten tell each other apart on light and on dark; then hues as far apart as they go.
const TEN = ["#4269d0", "#e69f00", "#e4572e", "#3fa796", "#3ca951", "#e377b4", "#9467e0", "#7fa8e0", "#9c6b4e", "#8a9099"];
function paletteColor(place) {
  if (place < TEN.length) return TEN[place];
  return hslColor((place * 137.508) % 360, 0.6, [0.42, 0.55, 0.66][place % 3]);
}

function hslColor(hue, saturation, lightness) {
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    const value = lightness - saturation * Math.min(lightness, 1 - lightness) * Math.max(-1, Math.min(k - 3, 9 - k, 1));
    return Math.round(255 * value).toString(16).padStart(2, "0");
  };
  return `#${part(0)}${part(8)}${part(4)}`;
}

// An element with properties, listeners (onclick …) and children; texts are never read as HTML.
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const byId = (id) => document.getElementById(id);
