/* The page: one large map, small maps of all heads, and the controls. */

const WARM = [[70, 12, 92], [187, 48, 84], [249, 142, 8], [252, 244, 160]];  // positive weights, small to large
const COLD = [[30, 30, 110], [30, 100, 190], [60, 180, 230], [200, 245, 255]];  // negative ones
const HELD = '#3ddc84';  // the square of a query that is held
const byId = id => document.getElementById(id);
const data = JSON.parse(byId('data').textContent);
const blocks = data.blocks.map(json => new Block(json));
// Coordinates are from 0 to 1; pointed is the position that is read while the query is held.
const state = { block: 0, head: 0, x: 0.5, y: 0.5, held: false, pointed: null };
// The query and the weights that the large map shows, for scripts.
window.explorer = { blocks, state, query: 0, weights: null };
const percent = w => `${(100 * w).toPrecision(3)} %`;
const times = factor => `${Math.abs(factor) >= 100 ? factor.toFixed(0) : factor.toPrecision(2)} ×`;

function colour(v) {  // v from -1 to 1 -> red, green, blue, opacity
  const stops = v < 0 ? COLD : WARM, place = Math.min(Math.abs(v), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  return [...stops[i].map((from, c) => from + (stops[i + 1][c] - from) * (place - i)), 255 * Math.min(Math.abs(v), 1) ** 0.6];
}

/* The weights at the two ends of the colour scale. */
function rangeOf(map, signed) {
  let low = Infinity, high = -Infinity;
  for (const w of map) { low = Math.min(low, w); high = Math.max(high, w); }
  if (signed && low < 0) { const largest = Math.max(-low, high); return [-largest, largest]; }
  return byId('range').value === 'zero' ? [0, high] : [low, high];
}

function outline(context, block, cell, detail, inks) {
  const [height, width] = block.size, { top, bottom, left, right } = cell;
  const x = context.canvas.width / width, y = context.canvas.height / height;
  const margin = detail ? Math.max(0, 9 - x * (right - left) / 2) : 2;  // makes the square large enough to be seen
  for (const [thick, ink] of inks) {
    context.lineWidth = thick;
    context.strokeStyle = ink;
    context.strokeRect(left * x - margin, top * y - margin, (right - left) * x + 2 * margin, (bottom - top) * y + 2 * margin);
  }
}

function drawMap(canvas, block, map, query, detail) {
  const context = canvas.getContext('2d'), [height, width] = block.size, [low, high] = rangeOf(map, block.signed);
  const heat = new OffscreenCanvas(width, height), pixels = new ImageData(width, height), span = high - low || 1;
  const opacity = byId('opacity').value / 100;
  map.forEach((w, i) => pixels.data.set(colour(low < 0 ? w / (high || 1) : (w - low) / span), 4 * i));
  heat.getContext('2d').putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = picture.width > canvas.width / 2;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.fillStyle = `rgb(0 0 0 / ${65 * opacity}%)`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.globalAlpha = opacity;
  context.drawImage(heat, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  const ink = state.held ? HELD : '#fff';
  outline(context, block, block.queries[query], detail, detail ? [[state.held ? 9 : 6, '#000'], [state.held ? 5 : 3, ink]] : [[4, '#000'], [2, ink]]);
  if (detail && state.held && state.pointed) {
    const { row, column } = pixelAt(block, state.pointed);
    context.setLineDash([7, 5]);
    outline(context, block, { top: row, bottom: row + 1, left: column, right: column + 1 }, true, [[5, '#000'], [2.5, '#fff']]);
    context.setLineDash([]);
  }
  return [low, high];
}

/* The pixel of the feature map at a position. */
function pixelAt(block, { x, y }) {
  return { row: Math.floor(y * block.size[0]), column: Math.floor(x * block.size[1]) };
}

const place = (block, row, column) => `row ${row + 1}, column ${column + 1} of ${block.size[0]} x ${block.size[1]}`;

/* The weight of every pixel if the head looked everywhere alike. */
const equalWeight = map => map.reduce((sum, w) => sum + w, 0) / map.length;
const overEqual = (w, equal) => equal > 0 ? ` (${times(w / equal)})` : '';

function describe(block, map, query) {
  const { row, column } = block.queries[query], width = block.size[1], equal = equalWeight(map);
  let best = 0, entropy = 0;
  map.forEach((w, i) => { if (Math.abs(w) > Math.abs(map[best])) best = i; });
  let text = `${state.held ? 'Held query' : 'Query'} at ${place(block, Math.floor(row), Math.floor(column))}. It looks most at `
    + `${place(block, Math.floor(best / width), best % width)}: ${percent(map[best])}${overEqual(map[best], equal)}, `
    + `where equal weights would be ${percent(equal)}.`;
  if (!block.signed && equal > 0) {
    const total = equal * map.length;
    map.forEach(w => { if (w > 0) entropy -= w / total * Math.log(w / total); });
    text += ` The weights are as spread out as equal weights on ${Math.exp(entropy).toPrecision(3)} of the ${map.length} pixels.`;
  }
  return text;
}

function describePointed(block, map) {
  const { row, column } = pixelAt(block, state.held && state.pointed || state), w = map[row * block.size[1] + column];
  const what = state.held && state.pointed ? `Under the pointer, ${place(block, row, column)}` : 'Weight of the query for itself';
  return `${what}: ${percent(w)}${overEqual(w, equalWeight(map))}.`;
}

function describeHead(block, head) {
  const parts = [];
  if (block.sharpness) parts.push(`Sharpness of this head: ${block.sharpness[head].toPrecision(3)}.`);
  if (block.saturation !== null) parts.push(`Saturated pixels of this block: ${(100 * block.saturation).toFixed(1)} %.`);
  return parts.join(' ');
}

function drawScale(block, map, low, high) {
  const equal = equalWeight(map), bar = new ImageData(256, 1), opacity = byId('opacity').value / 100;
  for (let i = 0; i < 256; i++) {
    const [r, g, b, a] = colour(low < 0 ? i / 127.5 - 1 : i / 255);
    bar.data.set([r, g, b, a * opacity], 4 * i);
  }
  byId('bar').getContext('2d').putImageData(bar, 0, 0);
  byId('low').textContent = percent(low) + (low ? overEqual(low, equal) : '');
  byId('high').textContent = percent(high) + overEqual(high, equal);
  const share = (equal - low) / (high - low || 1), inside = equal > 0 && high > low && share >= 0 && share <= 1;
  byId('tick').hidden = !inside;
  byId('equal').hidden = !inside;
  if (!inside) return;
  byId('tick').style.left = `${100 * share}%`;
  const label = byId('equal').firstElementChild;
  label.textContent = `equal weights: ${percent(equal)} (1 ×)`;
  label.style.left = `${100 * share}%`;
  label.style.transform = `translateX(${-100 * share}%)`;  // stays within the bar
}

function drawLarge() {
  const block = blocks[state.block], query = block.queryAt(state.x, state.y);
  const weights = block.weights(state.head, query), map = block.paint(weights);
  const [low, high] = drawMap(byId('map'), block, map, query, true);
  Object.assign(window.explorer, { query, weights, map });
  drawScale(block, map, low, high);
  byId('pointed').textContent = describePointed(block, map);
  byId('readout').textContent = describe(block, map, query);
  byId('facts').textContent = describeHead(block, state.head);
}

function drawSmall() {
  for (const button of document.querySelectorAll('#all button')) {
    const index = +button.dataset.block, head = +button.dataset.head, block = blocks[index];
    const query = block.queryAt(state.x, state.y), map = block.paint(block.weights(head, query));
    drawMap(button.querySelector('canvas'), block, map, query, false);
    const largest = map.reduce((a, b) => Math.abs(b) > Math.abs(a) ? b : a), equal = equalWeight(map);
    button.lastElementChild.textContent = `head ${head + 1}: ${equal > 0 ? times(largest / equal) : percent(largest)}`;
    button.setAttribute('aria-pressed', index === state.block && head === state.head);
  }
}

let waiting = false;
function update() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; drawLarge(); drawSmall(); });
}

function choose(block, head) {
  state.block = block;
  state.head = Math.min(head, blocks[block].heads - 1);
  byId('block').value = block;
  byId('head').replaceChildren(...Array.from({ length: blocks[block].heads }, (_, i) => new Option(`head ${i + 1}`, i)));
  byId('head').value = state.head;
  if (state.held) remember();
  update();
}

function moveTo(x, y) {
  const inside = value => Math.min(Math.max(value, 0), 1 - 1e-9);
  if (state.held) state.pointed = { x: inside(x), y: inside(y) };
  else [state.x, state.y] = [inside(x), inside(y)];
  update();
}

function hold(held) {
  state.held = held;
  state.pointed = null;
  byId('hold').setAttribute('aria-pressed', held);
  byId('hold').textContent = held ? 'Query held: release' : 'Hold the query';
  byId('map').classList.toggle('held', held);
  remember();
  update();
}

/* Writes the held query into the address, so that a link or a bookmark shows the same. */
function remember() {
  const { row, column } = blocks[state.block].queries[blocks[state.block].queryAt(state.x, state.y)];
  const shown = { block: state.block + 1, head: state.head + 1, row: Math.floor(row) + 1, column: Math.floor(column) + 1 };
  history.replaceState(null, '', state.held ? `#${new URLSearchParams(shown)}` : location.href.split('#')[0]);
}

function recall() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name, count) => Math.min(Math.max(Math.round(+asked.get(name)) || 1, 1), count) - 1;
  const index = number('block', blocks.length), block = blocks[index];
  choose(index, number('head', block.heads));
  if (!asked.has('row') || !asked.has('column')) return hold(false);
  moveTo((number('column', block.size[1]) + 0.5) / block.size[1], (number('row', block.size[0]) + 0.5) / block.size[0]);
  hold(true);
}

function pointed(event) {
  const box = byId('map').getBoundingClientRect();
  moveTo((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function pressed(event) {
  const block = blocks[state.block];
  if (event.key === 'Enter' || event.key === ' ') hold(!state.held);
  else if (event.key === 'Escape' && state.held) hold(false);
  else if (event.key in ARROWS) {
    const [dx, dy] = ARROWS[event.key].map(step => step * (event.shiftKey ? 5 : 1));
    if (state.held) readNext(block, dx, dy); else queryNext(block, dx, dy);
  } else return;
  event.preventDefault();
}

function queryNext(block, dx, dy) {
  const { rows, columns } = block.queryCells, query = block.queryAt(state.x, state.y);
  const step = (spans, from, by, length) => {
    const [first, last] = spans[Math.min(Math.max(from + by, 0), spans.length - 1)];
    return (first + last) / 2 / length;
  };
  moveTo(step(columns, query % columns.length, dx, block.size[1]),
         step(rows, Math.floor(query / columns.length), dy, block.size[0]));
}

function readNext(block, dx, dy) {
  const { row, column } = pixelAt(block, state.pointed || state), [height, width] = block.size;
  moveTo((column + dx + 0.5) / width, (row + dy + 0.5) / height);
}

function build() {
  const ratio = picture.height / picture.width, map = byId('map');
  map.width = Math.max(960, Math.min(picture.width, 1600));
  map.height = Math.round(map.width * ratio);
  byId('plain').src = data.picture;
  byId('plain').classList.toggle('small', picture.width < 360);
  byId('block').append(...blocks.map((block, i) => new Option(`${block.name} (${block.title})`, i)));
  blocks.forEach((block, i) => {
    const row = document.createElement('fieldset'), legend = document.createElement('legend');
    const heads = document.createElement('div');
    row.className = 'row';
    heads.className = 'heads';
    legend.textContent = `${block.name}: ${block.title}`;
    for (let head = 0; head < block.heads; head++) {
      const button = document.createElement('button'), canvas = document.createElement('canvas');
      canvas.width = 320;
      canvas.height = Math.round(320 * ratio);
      Object.assign(button.dataset, { block: i, head });
      button.type = 'button';
      button.append(canvas, document.createElement('span'));
      button.setAttribute('aria-description', block.name);
      button.addEventListener('click', () => choose(i, head));
      heads.append(button);
    }
    row.append(legend, heads);
    byId('all').append(row);
  });
  byId('notes').append(...data.notes.map(note => Object.assign(document.createElement('li'), { textContent: note })));
  byId('block').addEventListener('change', event => choose(+event.target.value, state.head));
  byId('head').addEventListener('change', event => choose(state.block, +event.target.value));
  byId('range').addEventListener('change', update);
  byId('opacity').addEventListener('input', update);
  byId('hold').addEventListener('click', () => hold(!state.held));
  map.addEventListener('pointermove', pointed);
  map.addEventListener('pointerleave', event => {  // lifting a finger is a leave event too, but must keep the position that was read
    if (state.held && event.pointerType === 'mouse') { state.pointed = null; update(); }
  });
  map.addEventListener('pointerdown', event => {
    if (event.pointerType === 'mouse' && event.button === 0) {
      if (state.held) { hold(false); pointed(event); } else { pointed(event); hold(true); }
    } else pointed(event);
  });
  map.addEventListener('keydown', pressed);
  recall();
}

const picture = new Image();
picture.addEventListener('load', build);
picture.src = data.picture;
