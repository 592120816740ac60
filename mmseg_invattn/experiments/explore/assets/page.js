/* The page: one large map, all maps as small multiples, and what moves them. */

const WARM = [[70, 12, 92], [187, 48, 84], [249, 142, 8], [252, 244, 160]];  // positive weights, small to large
const COLD = [[30, 30, 110], [30, 100, 190], [60, 180, 230], [200, 245, 255]];  // negative ones
const byId = id => document.getElementById(id);
const data = JSON.parse(byId('data').textContent);
const blocks = data.blocks.map(json => new Block(json));
const state = { block: 0, head: 0, x: 0.5, y: 0.5, held: false };
// What is shown now, for scripts: query and weights of the large map.
window.explorer = { blocks, state, query: 0, weights: null };
const percent = w => `${(100 * w).toPrecision(3)} %`;

function colour(v) {  // v from -1 to 1 -> red, green, blue, opacity
  const stops = v < 0 ? COLD : WARM, place = Math.min(Math.abs(v), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(place), stops.length - 2);
  return [...stops[i].map((from, c) => from + (stops[i + 1][c] - from) * (place - i)), 205 * Math.min(Math.abs(v), 1) ** 0.6];
}

/* The weights that the ends of the colours stand for. */
function rangeOf(map, signed) {
  let low = Infinity, high = -Infinity;
  for (const w of map) { low = Math.min(low, w); high = Math.max(high, w); }
  if (signed && low < 0) { const largest = Math.max(-low, high); return [-largest, largest]; }
  return byId('range').value === 'zero' ? [0, high] : [low, high];
}

function drawMap(canvas, block, map, query, detail) {
  const context = canvas.getContext('2d'), [height, width] = block.size, [low, high] = rangeOf(map, block.signed);
  const heat = new OffscreenCanvas(width, height), pixels = new ImageData(width, height), span = high - low || 1;
  map.forEach((w, i) => pixels.data.set(colour(low < 0 ? w / (high || 1) : (w - low) / span), 4 * i));
  heat.getContext('2d').putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = picture.width > canvas.width / 2;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.fillStyle = 'rgb(0 0 0 / 55%)';
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = false;
  context.drawImage(heat, 0, 0, canvas.width, canvas.height);
  const { top, bottom, left, right } = block.queries[query], x = canvas.width / width, y = canvas.height / height;
  const margin = detail ? Math.max(0, 9 - x * (right - left) / 2) : 2;  // a square that can be seen
  for (const [thick, ink] of detail ? [[6, '#000'], [3, '#fff']] : [[4, '#000'], [2, '#fff']]) {
    context.lineWidth = thick;
    context.strokeStyle = ink;
    context.strokeRect(left * x - margin, top * y - margin, (right - left) * x + 2 * margin, (bottom - top) * y + 2 * margin);
  }
  return [low, high];
}

function describe(block, map, query) {
  const { row, column } = block.queries[query], [height, width] = block.size;
  let best = 0, entropy = 0, total = 0;
  map.forEach((w, i) => { if (Math.abs(w) > Math.abs(map[best])) best = i; total += w; });
  const place = (y, x) => `row ${Math.floor(y) + 1}, column ${Math.floor(x) + 1} of ${height} x ${width}`;
  let text = `Query at ${place(row, column)}. It looks most at ${place(Math.floor(best / width), best % width)}: `
    + `${percent(map[best])}, where equal weights would be ${percent(total / map.length)}.`;
  if (!block.signed && total > 0) {
    map.forEach(w => { if (w > 0) entropy -= w / total * Math.log(w / total); });
    text += ` The weights are spread over as many as ${Math.exp(entropy).toPrecision(3)} equal pixels would be.`;
  }
  return text;
}

function drawLarge() {
  const block = blocks[state.block], query = block.queryAt(state.x, state.y);
  const weights = block.weights(state.head, query), map = block.paint(weights);
  const [low, high] = drawMap(byId('map'), block, map, query, true);
  Object.assign(window.explorer, { query, weights, map });
  byId('low').textContent = percent(low);
  byId('high').textContent = percent(high);
  const bar = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) bar.data.set(colour(low < 0 ? i / 127.5 - 1 : i / 255), 4 * i);
  byId('bar').getContext('2d').putImageData(bar, 0, 0);
  byId('readout').textContent = describe(block, map, query);
}

function drawSmall() {
  for (const button of document.querySelectorAll('#all button')) {
    const index = +button.dataset.block, head = +button.dataset.head, block = blocks[index];
    const query = block.queryAt(state.x, state.y);
    drawMap(button.querySelector('canvas'), block, block.paint(block.weights(head, query)), query, false);
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
  update();
}

function moveTo(x, y) {
  const inside = value => Math.min(Math.max(value, 0), 1 - 1e-9);
  [state.x, state.y] = [inside(x), inside(y)];
  update();
}

function pointed(event) {
  const box = byId('map').getBoundingClientRect();
  moveTo((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function pressed(event) {
  if (!(event.key in ARROWS)) return;
  event.preventDefault();
  const block = blocks[state.block], [dx, dy] = ARROWS[event.key].map(step => step * (event.shiftKey ? 5 : 1));
  const { rows, columns } = block.queryCells, query = block.queryAt(state.x, state.y);
  const step = (spans, from, by, length) => {
    const [first, last] = spans[Math.min(Math.max(from + by, 0), spans.length - 1)];
    return (first + last) / 2 / length;
  };
  moveTo(step(columns, query % columns.length, dx, block.size[1]),
         step(rows, Math.floor(query / columns.length), dy, block.size[0]));
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
      button.append(canvas, `head ${head + 1}`);
      button.setAttribute('aria-label', `${block.name}, head ${head + 1}`);
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
  map.addEventListener('pointermove', event => { if (!state.held || event.pointerType !== 'mouse') pointed(event); });
  map.addEventListener('pointerdown', event => {
    state.held = event.pointerType === 'mouse' && !state.held;
    pointed(event);
  });
  map.addEventListener('keydown', pressed);
  choose(0, 0);
}

const picture = new Image();
picture.addEventListener('load', build);
picture.src = data.picture;
