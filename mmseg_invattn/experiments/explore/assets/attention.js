'use strict';
/* Weights from queries and keys: the twin of attention_view.py, which has the equations. Change both together. */

const SIGNED = ['mean', 'elu'];
const elu1 = t => t > 0 ? 1 + t : Math.exp(t);

function decode({ type, data }) {
  const bytes = Uint8Array.from(atob(data), character => character.charCodeAt(0));
  return new { Int8: Int8Array, Int16: Int16Array, Float32: Float32Array }[type](bytes.buffer);
}

/* Integers times the step of their channel: (H, tokens, channels), head after head. */
function scaled(whole, step, heads, channels) {
  if (!step) return whole;
  const out = new Float32Array(whole.length), perHead = whole.length / heads;
  for (let i = 0; i < whole.length; i++) out[i] = whole[i] * step[Math.floor(i / perHead) * channels + i % channels];
  return out;
}

function listCells(grids) {
  const cells = [];
  for (const { rows, columns } of grids) {
    for (const [top, bottom] of rows) {
      for (const [left, right] of columns) {
        cells.push({ top, bottom, left, right, row: (top + bottom - 1) / 2, column: (left + right - 1) / 2,
                     area: (bottom - top) * (right - left) });
      }
    }
  }
  return cells;
}

class Block {
  constructor(json) {
    Object.assign(this, json);
    const arrays = Object.fromEntries(Object.entries(json.arrays).map(([name, array]) => [name, decode(array)]));
    this.query = scaled(arrays.query, arrays.queryStep, this.heads, this.channels);
    this.key = scaled(arrays.key, arrays.keyStep, this.heads, this.channels);
    this.keyBias = arrays.keyBias;
    this.queries = listCells([this.queryCells]);
    this.keys = listCells(this.keyCells);
    this.count = arrays.keyCount || new Float32Array(this.keys.length).fill(1);
    this.total = this.count.reduce((sum, count) => sum + count, 0);
    this.signed = SIGNED.includes(this.kernel);
    delete this.arrays;
  }

  /* t of one query and every key. */
  scores(head, query) {
    const channels = this.channels, n = this.queries.length, m = this.keys.length, out = new Float32Array(m);
    const q = (head * n + query) * channels;
    for (let j = 0; j < m; j++) {
      const k = (head * m + j) * channels;
      let t = this.keyBias ? this.keyBias[head * m + j] : 0;
      if (this.score === 'sum') t += this.query[q] + this.key[k];
      else for (let c = 0; c < channels; c++) t += this.query[q + c] * this.key[k + c];
      out[j] = t;
    }
    return out;
  }

  /* beta. */
  positionLogit(head, rows, columns) {
    if (this.position.kind === 'quadratic') {
      const [y, x] = this.position.centre[head];
      return -this.position.alpha[head] * ((rows - y) ** 2 + (columns - x) ** 2);
    }
    const lookUp = (table, offset) => {
      const reach = (table.length - 1) / 2, place = Math.min(Math.max(offset, -reach), reach) + reach;
      const below = Math.floor(place), above = Math.min(below + 1, 2 * reach);
      return table[below] * (1 - place + below) + table[above] * (place - below);
    };
    return lookUp(this.position.row[head], rows) + lookUp(this.position.column[head], columns);
  }

  sees(query, key) {
    if (this.neighbourhood === 'criss_cross') return query.row === key.row || query.column === key.column;
    if (this.neighbourhood === 'window') {
      const [window, shift] = this.window, place = x => Math.floor((x - shift) / window);
      return place(query.row) === place(key.row) && place(query.column) === place(key.column);
    }
    return true;
  }

  /* Weights of all keys for one query of one head. */
  weights(head, query) {
    const t = this.scores(head, query), out = new Float32Array(t.length), count = this.count;
    if (this.kernel === 'mean' || this.kernel === 'relu') {
      const f = this.kernel === 'relu' ? x => Math.max(x, 0) : x => x;
      return out.map((_, j) => this.factor * count[j] * f(t[j]) / this.total);
    }
    let sum = 0;
    if (this.kernel === 'elu') {
      t.forEach((x, j) => { out[j] = count[j] * (elu1(x) - 1); sum += out[j]; });
    } else {
      const cell = this.queries[query];
      let top = -Infinity;
      t.forEach((x, j) => {
        const key = this.keys[j];
        if (!this.sees(cell, key)) { t[j] = -Infinity; return; }
        let logit = this.kernel === 'elu1' && x > 0 ? Math.log1p(x) : x;
        if (this.position) logit += this.positionLogit(head, key.row - cell.row, key.column - cell.column);
        t[j] = logit + Math.log(count[j]);
        top = Math.max(top, t[j]);
      });
      t.forEach((x, j) => { out[j] = Math.exp(x - top); sum += out[j]; });
    }
    return out.map(w => this.factor * w / sum);
  }

  /* Weights of keys as weights of the pixels of the feature map that they pool, row by row. */
  paint(weights) {
    const [height, width] = this.size, out = new Float32Array(height * width);
    this.keys.forEach(({ top, bottom, left, right, area }, j) => {
      for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) out[y * width + x] += weights[j] / area;
    });
    return out;
  }

  /* The query at a place of the picture, both coordinates from 0 to 1. */
  queryAt(x, y) {
    const find = (spans, place, length) => {
      const pixel = Math.min(Math.max(Math.floor(place * length), 0), length - 1);
      return spans.findIndex(([first, last]) => first <= pixel && pixel < last);
    };
    const { rows, columns } = this.queryCells;
    return find(rows, y, this.size[0]) * columns.length + find(columns, x, this.size[1]);
  }
}
