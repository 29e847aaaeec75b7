'use strict';
// Everything is in the page: arrays as little-endian base64, C order. Names of axes: method M, start S, pair P, image N.
const data = JSON.parse(document.getElementById('data').textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const floats = text => new Float32Array(bytes(text).buffer);
const maps = bytes(data.maps), tops = floats(data.tops), rms = floats(data.rms);
const energies = {bias: floats(data.bias), prediction: floats(data.prediction), target: floats(data.target)};
const pictures = bytes(data.pictures), colours = bytes(data.colours);
const [height, width] = data.size, pixels = height * width, R = data.radii.length;
const M = data.methods.length, N = data.images.length, P = data.pairs.length, S = data.times.length - 1;
const QUANTITIES = ['bias', 'prediction', 'target'];
const EDGE = 1e-12;  // the disc's edge is inside
const at = id => document.getElementById(id);

function number(value) {
  if (Number.isNaN(value)) return '–';
  if (!Number.isFinite(value)) return '∞';
  return value >= 999.5 ? String(Math.round(value)) : String(Number(value.toPrecision(3)));
}

// ---- what the controls say

function chosenImages() {
  const wanted = at('class').value;
  return data.images.map((_, n) => n).filter(n => wanted === '' || data.images[n].class === wanted);
}

function state() {
  const start = Number(at('t0').value), end = Number(at('t1').value);
  return {
    m: Number(at('method').value), n: chosenImages()[Number(at('image').value)], start, end,
    p: data.pairs.findIndex(([s, e]) => s === start && e === end),
    cutoff: Number(at('cutoff').value), overlay: Number(at('overlay').value) / 100, shared: at('scale').value,
  };
}

function keepOrder() {  // t1 stays above t0, whichever of them was moved
  if (Number(at('t1').value) <= Number(at('t0').value)) at('t1').value = Number(at('t0').value) + 1;
}

function keepImage() {
  const last = chosenImages().length - 1;
  at('image').max = last;
  at('image').disabled = last === 0;
  at('image').value = Math.min(Number(at('image').value), last);
}

function spectrum(quantity, s) {
  const place = quantity === 'bias' ? (s.m * P + s.p) * N + s.n : (s.m * S + s.start) * N + s.n;
  return energies[quantity].subarray(place * R, (place + 1) * R);
}

// ---- numbers (Eq. 12)

function ratio(energy, cutoff, withDc) {
  let low = 0, high = 0;
  data.radii.forEach((radius, r) => {
    if (radius > cutoff + EDGE) high += energy[r];
    else if (withDc || radius > 0) low += energy[r];
  });
  return low / high;
}

function rings(energy) {  // mean energy of a coefficient in rings as wide as the grid's lowest frequency
  const side = Math.max(height, width), sums = [], counts = [];
  data.radii.forEach((radius, r) => {
    const ring = Math.round(radius * side);
    sums[ring] = (sums[ring] || 0) + energy[r];
    counts[ring] = (counts[ring] || 0) + data.counts[r];
  });
  return sums.map((sum, ring) => [ring / side, sum / counts[ring]]).filter(point => point[1] > 0);
}

// ---- pictures

function drawPicture(s) {
  const context = at('picture').getContext('2d'), shown = context.createImageData(width, height);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = pictures[(s.n * pixels + i) * 3 + c];
    shown.data[4 * i + 3] = 255;
  }
  context.putImageData(shown, 0, 0);
}

function greatest(s) {
  if (s.shared === 'page') return tops.reduce((a, b) => Math.max(a, b), 0);
  return Math.max(...data.methods.map((_, m) => tops[(m * P + s.p) * N + s.n]));
}

function drawMap(s) {
  const context = at('map').getContext('2d'), shown = context.createImageData(width, height);
  const place = (s.m * P + s.p) * N + s.n, top = greatest(s), factor = top > 0 ? tops[place] / top : 0;
  for (let i = 0; i < pixels; i++) {
    const j = (s.n * pixels + i) * 3, grey = (pictures[j] + pictures[j + 1] + pictures[j + 2]) / 3;
    const colour = 3 * Math.round(maps[place * pixels + i] * factor);
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = s.overlay * colours[colour + c] + (1 - s.overlay) * grey;
    shown.data[4 * i + 3] = 255;
  }
  context.putImageData(shown, 0, 0);
  at('greatest').textContent = number(top);
  at('rms').textContent = number(rms[place]);
}

function drawBar() {
  const context = at('bar').getContext('2d'), shown = context.createImageData(256, 1);
  for (let i = 0; i < 256; i++) shown.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
  context.putImageData(shown, 0, 0);
}

function decades(values) {
  const logs = values.filter(v => v > 0 && Number.isFinite(v)).map(Math.log10);
  return logs.length ? [Math.floor(Math.min(...logs)), Math.ceil(Math.max(...logs) + 1e-9)] : [-1, 1];
}

const power = k => `10<tspan dy="-5" font-size="9">${k}</tspan>`;

function lineColour(quantity, s) {
  return {bias: data.methods[s.m].colour, prediction: '#111111', target: '#7F7F7F'}[quantity];
}

// The axis of energies is the image's own, for all methods and times: a curve that moves has changed.
const ranges = {};
function energyRange(n) {
  if (!(n in ranges)) {
    const values = [];
    for (let m = 0; m < M; m++) {
      for (let p = 0; p < P; p++) {
        const s = {m, n, p, start: data.pairs[p][0]};
        QUANTITIES.forEach(quantity => rings(spectrum(quantity, s)).forEach(point => values.push(point[1])));
      }
    }
    ranges[n] = decades(values);
  }
  return ranges[n];
}

function drawSpectrum(s) {
  const w = 420, h = 280, left = 52, right = 8, top = 8, bottom = 44, [low, high] = energyRange(s.n);
  const x = f => left + f / 0.72 * (w - left - right);
  const y = e => top + (high - Math.log10(e)) / (high - low) * (h - top - bottom);
  const parts = [];
  for (let k = low; k <= high; k++) {
    parts.push(`<line x1="${left}" x2="${w - right}" y1="${y(10 ** k)}" y2="${y(10 ** k)}" stroke="#e6e6e6"/>`,
      `<text x="${left - 5}" y="${y(10 ** k) + 4}" text-anchor="end">${power(k)}</text>`);
  }
  for (let f = 0; f < 0.71; f += 0.1) {
    parts.push(`<text x="${x(f)}" y="${h - bottom + 16}" text-anchor="middle">${number(f)}</text>`);
  }
  parts.push(`<line x1="${left}" x2="${w - right}" y1="${h - bottom}" y2="${h - bottom}" stroke="#888"/>`,
    `<text x="${(w + left) / 2}" y="${h - 5}" text-anchor="middle">radial frequency (cycles per pixel)</text>`,
    `<text transform="translate(12 ${(h - bottom) / 2}) rotate(-90)" text-anchor="middle">energy of a coefficient</text>`,
    `<line class="cutoff" x1="${x(s.cutoff)}" x2="${x(s.cutoff)}" y1="${top}" y2="${h - bottom}" stroke="#555"
      stroke-dasharray="2 3"/>`);
  QUANTITIES.forEach((quantity, row) => {
    const colour = lineColour(quantity, s), points = rings(spectrum(quantity, s));
    const dash = quantity === 'target' ? 'stroke-dasharray="6 4"' : '', thick = quantity === 'bias' ? 2.5 : 1.3;
    const beyond = points.filter(point => point[0] > 0).map(([f, e]) => `${x(f).toFixed(1)},${y(e).toFixed(1)}`);
    parts.push(`<polyline points="${beyond.join(' ')}" fill="none" stroke="${colour}" stroke-width="${thick}" ${dash}/>`);
    if (points.length && points[0][0] === 0) {
      parts.push(`<circle cx="${x(0)}" cy="${y(points[0][1])}" r="3.5" fill="${colour}"/>`);
    }
    const line = top + 10 + 16 * row;
    parts.push(`<line x1="${w - 112}" x2="${w - 86}" y1="${line}" y2="${line}" stroke="${colour}" stroke-width="${thick}"
      ${dash}/><text x="${w - 80}" y="${line + 4}">${quantity}</text>`);
  });
  const line = top + 10 + 16 * QUANTITIES.length;
  parts.push(`<circle cx="${w - 99}" cy="${line}" r="3.5" fill="#888"/><text x="${w - 80}" y="${line + 4}">DC</text>`);
  at('spectrum').innerHTML = `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="radial spectrum">${parts.join('')}</svg>`;
}

function drawRatios(s) {
  const rows = QUANTITIES.map(quantity => {
    const energy = spectrum(quantity, s);
    return {quantity, values: [ratio(energy, s.cutoff, false), ratio(energy, s.cutoff, true)]};
  });
  at('pfr').innerHTML = rows.map(({quantity, values}) =>
    `<tr data-quantity="${quantity}"><td>${quantity}</td>${values.map(v => `<td>${number(v)}</td>`).join('')}</tr>`).join('');
  const [low, high] = decades([0.1, 10, ...rows.flatMap(row => row.values)]);
  const w = 360, left = 80, right = 14, step = 46, h = step * rows.length + 46;
  const x = v => left + (Math.log10(v) - low) / (high - low) * (w - left - right), parts = [];
  for (let k = low; k <= high; k++) {
    parts.push(`<line x1="${x(10 ** k)}" x2="${x(10 ** k)}" y1="0" y2="${h - 42}" stroke="${k === 0 ? '#777' : '#e6e6e6'}"/>`,
      `<text x="${x(10 ** k)}" y="${h - 26}" text-anchor="middle">${power(k)}</text>`);
  }
  rows.forEach(({quantity, values}, row) => {
    const colour = lineColour(quantity, s);
    parts.push(`<text x="${left - 6}" y="${row * step + 25}" text-anchor="end">${quantity}</text>`);
    values.forEach((value, k) => {
      const end = value > 0 ? Number.isFinite(value) ? x(value) : w - right : left;
      parts.push(`<rect x="${left}" y="${row * step + 5 + 16 * k}" width="${Math.max(0, end - left)}" height="13"
        fill="${k ? '#fff' : colour}" stroke="${colour}"/>`);
    });
  });
  parts.push(`<text x="${w}" y="${h - 5}" text-anchor="end">low / high; filled without DC, hollow with</text>`);
  at('bars').innerHTML = `<svg viewBox="0 0 ${w} ${h}" role="img" aria-label="PFR as bars">${parts.join('')}</svg>`;
}

function draw() {
  const began = performance.now();
  keepOrder();
  keepImage();
  const s = state(), image = data.images[s.n];
  at('image-value').textContent = `${Number(at('image').value) + 1} of ${chosenImages().length}`;
  at('t0-value').textContent = number(data.times[s.start]);
  at('t1-value').textContent = number(data.times[s.end]);
  at('cutoff-value').textContent = `${s.cutoff.toFixed(2)} cycles/pixel`;
  at('overlay-value').textContent = `${Math.round(100 * s.overlay)} %`;
  ['image', 't0', 't1', 'cutoff', 'overlay'].forEach(id => at(id).setAttribute('aria-valuetext', at(`${id}-value`).textContent));
  at('about').textContent = `image ${image.index} of ${data.source}, ${image.class}`;
  drawPicture(s);
  drawMap(s);
  drawSpectrum(s);
  drawRatios(s);
  at('took').textContent = `This view was drawn in ${(performance.now() - began).toFixed(0)} ms.`;
}

function fill(select, options) {
  options.forEach(([value, text]) => select.add(new Option(text, value)));
}

fill(at('method'), data.methods.map((method, m) => [m, method.name]));
fill(at('class'), [['', 'all classes'], ...[...new Set(data.classes)].map(name => [name, name])]);
for (const id of ['picture', 'map']) Object.assign(at(id), {width, height});
Object.assign(at('t0'), {max: S - 1, value: Math.round(0.2 * S)});
Object.assign(at('t1'), {max: S, value: Math.round(0.6 * S)});
at('cutoff').value = data.cutoff;
at('controls').addEventListener('input', draw);
at('controls').addEventListener('submit', event => event.preventDefault());
drawBar();
draw();
