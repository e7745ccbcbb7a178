// The map: points written into the pixels of a canvas, which is fast enough for 200 000 and needs no WebGL.
"use strict";
class Scatter {
  // places: x, y of each point in 0 … 65535; told: {hover(i or -1, x, y), click(i or -1), lasso(points)}.
  constructor(canvas, places, told) {
    Object.assign(this, { canvas, places, told, n: places.length / 2, zoom: 1, x: 0.5, y: 0.5, path: null, drawing: false, ring: -1 });
    this.colors = new Uint32Array(this.n).fill(0xff888888);
    this.lit = null; // Uint8Array: points that stand out; null: all alike
    this.queued = false;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => { this.start = this.path = null; this.draw(); });
    canvas.addEventListener("pointerleave", () => this.told.hover(-1));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoomAt(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  // Screen pixels per map width and height, and the screen place of the map's corner. Its axes have no meaning of their
  // own: it may be stretched a little, to fill the screen.
  frame() {
    const width = this.canvas.clientWidth, height = this.canvas.clientHeight, zoom = 0.94 * this.zoom;
    const across = zoom * Math.min(width, 1.6 * height), down = zoom * Math.min(height, 1.6 * width);
    return { width, height, across, down, left: width / 2 - this.x * across, top: height / 2 - this.y * down };
  }

  draw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; this.paint(); });
  }

  radius() {
    const base = this.n < 1500 ? 4.2 : this.n < 8000 ? 3 : this.n < 30000 ? 2 : 1.4;
    return base * Math.min(2.2, this.zoom ** 0.25);
  }

  paint() {
    const ratio = window.devicePixelRatio || 1, { width, height, across, down, left, top } = this.frame();
    const wide = Math.round(width * ratio), high = Math.round(height * ratio);
    if (!wide || !high) return;
    if (this.canvas.width !== wide || this.canvas.height !== high) { this.canvas.width = wide; this.canvas.height = high; }
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(wide, high), pixels = new Uint32Array(image.data.buffer);
    const disc = discOf(this.radius() * ratio), edge = Math.ceil(this.radius() * ratio) + 1;
    const stepX = (across * ratio) / 65535, stepY = (down * ratio) / 65535, x0 = left * ratio, y0 = top * ratio;
    const { places, colors, lit } = this;
    // Points that stand out come last, over the others.
    for (const turn of lit ? [0, 1] : [1]) {
      for (let i = 0; i < this.n; i++) {
        if (lit && lit[i] !== turn) continue;
        const x = Math.round(x0 + stepX * places[2 * i]), y = Math.round(y0 + stepY * places[2 * i + 1]);
        if (x < edge || y < edge || x >= wide - edge || y >= high - edge) continue;
        const color = turn ? colors[i] : (colors[i] & 0xffffff) | 0x38000000, at = y * wide + x;
        for (let k = 0; k < disc.length; k += 3) {
          const pixel = at + disc[k + 1] * wide + disc[k], cover = disc[k + 2];
          if (cover === 255) pixels[pixel] = color;
          else if (pixels[pixel] === 0) pixels[pixel] = (color & 0xffffff) | ((((color >>> 24) * cover) / 255) << 24);
        }
      }
    }
    context.putImageData(image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.ring >= 0) {
      context.beginPath();
      context.arc(...this.placeOf(this.ring), this.radius() + 5, 0, 2 * Math.PI);
      context.lineWidth = 3;
      context.strokeStyle = getComputedStyle(this.canvas).color;
      context.stroke();
    }
    if (this.path) {
      context.beginPath();
      this.path.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.fillStyle = "rgba(66,105,208,.15)";
      context.strokeStyle = "rgb(66,105,208)";
      context.lineWidth = 2;
      context.fill();
      context.stroke();
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  // The point nearest to a place on screen, within a few pixels; -1 where there is none.
  at(x, y) {
    const { across, down, left, top } = this.frame(), stepX = across / 65535, stepY = down / 65535;
    const fair = Math.max(8, this.radius() + 4);
    let best = -1, distance = fair * fair;
    for (let i = 0; i < this.n; i++) {
      const dx = left + stepX * this.places[2 * i] - x, dy = top + stepY * this.places[2 * i + 1] - y;
      // Among points as near, one that stands out.
      const d = dx * dx + dy * dy + (this.lit && !this.lit[i] ? 9 : 0);
      if (d < distance) { distance = d; best = i; }
    }
    return best;
  }

  placeOf(i) {
    const { across, down, left, top } = this.frame();
    return [left + (across * this.places[2 * i]) / 65535, top + (down * this.places[2 * i + 1]) / 65535];
  }

  inside(path) {
    const found = [], { across, down, left, top } = this.frame();
    const xs = path.map(([x]) => x), ys = path.map(([, y]) => y);
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    for (let i = 0; i < this.n; i++) {
      const x = left + (across * this.places[2 * i]) / 65535, y = top + (down * this.places[2 * i + 1]) / 65535;
      if (x < x0 || x > x1 || y < y0 || y > y1) continue;
      let within = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
        if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) within = !within;
      }
      if (within) found.push(i);
    }
    return found;
  }

  zoomAt(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const before = this.frame();
    const mapX = (x - before.left) / before.across, mapY = (y - before.top) / before.down;
    this.zoom = Math.min(200, Math.max(0.8, this.zoom * factor));
    const after = this.frame();
    this.x += mapX - (x - after.left) / after.across;
    this.y += mapY - (y - after.top) / after.down;
    this.draw();
  }

  whole() { Object.assign(this, { zoom: 1, x: 0.5, y: 0.5 }); this.draw(); }

  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.start = { x: event.offsetX, y: event.offsetY, mapX: this.x, mapY: this.y, far: false };
    if (this.drawing || event.shiftKey) this.path = [[event.offsetX, event.offsetY]];
  }

  moved(event) {
    const { start } = this;
    if (!start) {
      const i = this.at(event.offsetX, event.offsetY);
      this.told.hover(i, event.offsetX, event.offsetY);
      return;
    }
    if (Math.hypot(event.offsetX - start.x, event.offsetY - start.y) > 4) { start.far = true; this.told.hover(-1); }
    if (this.path) this.path.push([event.offsetX, event.offsetY]);
    else if (start.far) {
      const { across, down } = this.frame();
      this.x = start.mapX - (event.offsetX - start.x) / across;
      this.y = start.mapY - (event.offsetY - start.y) / down;
    }
    this.draw();
  }

  up(event) {
    const { start, path } = this;
    this.start = this.path = null;
    if (path && path.length > 2) this.told.lasso(this.inside(path));
    else if (start && !start.far) this.told.click(this.at(event.offsetX, event.offsetY));
    this.draw();
  }

  key(event) {
    const step = 0.1 / this.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) { this.x += moves[event.key][0]; this.y += moves[event.key][1]; this.draw(); }
    else if (event.key === "+" || event.key === "=") this.zoomAt(1.4);
    else if (event.key === "-") this.zoomAt(1 / 1.4);
    else if (event.key === "0") this.whole();
    else return;
    event.preventDefault();
  }
}

// A disc as triples: x, y, and how much of the pixel it covers (0 … 255).
function discOf(radius) {
  const found = [], reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y++)
    for (let x = -reach; x <= reach; x++) {
      const cover = Math.round(255 * Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y))));
      if (cover > 0) found.push(x, y, cover);
    }
  return found;
}

// "#rrggbb" as a pixel of a little-endian machine.
function pixelOf(color) {
  const value = parseInt(color.slice(1), 16);
  return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
}
