"use strict";
// A trained model in the browser: patches in, logits out, as `sentinode predict` has them to 1e-4. Nothing is sent.

(() => {
const PATCH_PX = 96, CENTRE_PX = 32, MARGIN_PX = 32;

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const logSumExp = (values) => {
  const largest = Math.max(...values);
  return largest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - largest), 0));
};
// The logit of the mean of the probabilities that logits stand for; a difference of two sums, so that nothing rounds to 0.
const meanOfProbabilities = (logits) =>
  logits.length === 1
    ? logits[0]
    : logSumExp(logits.map((z) => -softplus(-z))) - logSumExp(logits.map((z) => -softplus(z)));
const bounded = (logit, smallest) => {
  const largest = Math.log1p(-smallest) - Math.log(smallest);
  return Math.min(Math.max(logit, -largest), largest);
};

function floatsOf(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  const view = new DataView(bytes.buffer), floats = new Float32Array(bytes.length / 4);
  for (let k = 0; k < floats.length; k++) floats[k] = view.getFloat32(4 * k, true);
  return floats;
}

// Maps are {c, h, w, data}, channel by channel, row by row, as PyTorch has them.
const LAYERS = {
  conv(x, layer, weights) {
    const { outputs, kernel, stride, padding } = layer;
    const h = Math.floor((x.h + 2 * padding - kernel) / stride) + 1, w = Math.floor((x.w + 2 * padding - kernel) / stride) + 1;
    const data = new Float32Array(outputs * h * w), plane = new Float64Array(h * w);
    let at = layer.weight;
    for (let o = 0; o < outputs; o++) {
      plane.fill(weights[layer.bias + o]);
      for (let i = 0; i < x.c; i++)
        for (let ky = 0; ky < kernel; ky++)
          for (let kx = 0; kx < kernel; kx++, at++) {
            const factor = weights[at];
            for (let y = 0; y < h; y++) {
              const row = y * stride + ky - padding;
              if (row < 0 || row >= x.h) continue;
              const from = (i * x.h + row) * x.w + kx - padding, to = y * w;
              for (let column = 0; column < w; column++) {
                const place = column * stride + kx - padding;
                if (place >= 0 && place < x.w) plane[to + column] += factor * x.data[from + column * stride];
              }
            }
          }
      data.set(plane, o * h * w);
    }
    return { c: outputs, h, w, data };
  },
  pool(x, { size, stride }) {
    const h = Math.floor((x.h - size) / stride) + 1, w = Math.floor((x.w - size) / stride) + 1;
    const data = new Float32Array(x.c * h * w);
    for (let c = 0, to = 0; c < x.c; c++)
      for (let y = 0; y < h; y++)
        for (let column = 0; column < w; column++, to++) {
          let most = -Infinity;
          for (let ky = 0; ky < size; ky++)
            for (let kx = 0; kx < size; kx++)
              most = Math.max(most, x.data[(c * x.h + y * stride + ky) * x.w + column * stride + kx]);
          data[to] = most;
        }
    return { c: x.c, h, w, data };
  },
  relu(x) {
    return { ...x, data: x.data.map((value) => Math.max(value, 0)) };
  },
  flatten(x) {
    return { c: x.data.length, h: 1, w: 1, data: x.data };
  },
  linear(x, layer, weights) {
    const data = new Float32Array(layer.outputs);
    for (let o = 0; o < layer.outputs; o++) {
      let sum = weights[layer.bias + o];
      for (let i = 0; i < x.c; i++) sum += weights[layer.weight + o * x.c + i] * x.data[i];
      data[o] = sum;
    }
    return { c: layer.outputs, h: 1, w: 1, data };
  },
};

// What a network is given of the patch whose upper left corner is at (left, top): downsampled, in [0, 1].
function seenBy(image, left, top, way) {
  const { at, block, size } = way, data = new Float32Array(3 * size * size);
  const half = Math.floor((block * block) / 2);
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++)
      for (let c = 0; c < 3; c++) {
        let total = 0;
        for (let dy = 0; dy < block; dy++)
          for (let dx = 0; dx < block; dx++)
            total += image.rgb[3 * ((top + at[y] + dy) * image.width + left + at[x] + dx) + c];
        data[(c * size + y) * size + x] = Math.floor((total + half) / (block * block)) / 255;
      }
  return { c: 3, h: size, w: size, data };
}

// Flipped left-right for 4 to 7, then rotated anticlockwise, as `data/patches.py` numbers the symmetries.
function turned(x, symmetry) {
  if (!symmetry) return x;
  const size = x.h, data = new Float32Array(x.data.length);
  for (let y = 0; y < size; y++)
    for (let column = 0; column < size; column++) {
      let [row, place] = [y, column];
      for (let k = 0; k < symmetry % 4; k++) [row, place] = [place, size - 1 - row];
      if (symmetry >= 4) place = size - 1 - place;
      for (let c = 0; c < x.c; c++) data[(c * size + y) * size + column] = x.data[(c * size + row) * size + place];
    }
  return { ...x, data };
}

class Model {
  constructor(described) {
    this.described = described;
    this.weights = floatsOf(described.weights);
  }

  // The logit of the patch at a place of an image {width, height, rgb}, as it would be predicted.
  logit(image, left = 0, top = 0) {
    return bounded(meanOfProbabilities(this.described.runs.map((run) => this.ofRun(run, image, left, top))), 1e-12);
  }

  ofRun(run, image, left, top) {
    const said = run.networks.map((network) => {
      const seen = seenBy(image, left, top, network.way), logits = [];
      for (let view = 0; view < network.views; view++) {
        let maps = turned(seen, view);
        for (const layer of network.layers) maps = LAYERS[layer.kind](maps, layer, this.weights);
        logits.push(maps.data[0]);
      }
      return meanOfProbabilities(logits);
    });
    if (!run.weights) return said[0];
    return said.reduce((sum, logit, k) => sum + run.weights[k] * bounded(logit, 1e-7), 0);
  }

  probability(logit) {
    return sigmoid(logit);
  }

  calibrated(logit) {
    return this.described.temperature ? sigmoid(logit / this.described.temperature) : null;
  }
}

// --- TIFF: uncompressed, LZW or deflated, 8 bits of RGB or RGBA, in strips or tiles ---

async function decodeTiff(buffer) {
  const view = new DataView(buffer), little = view.getUint16(0) === 0x4949;
  const u16 = (at) => view.getUint16(at, little), u32 = (at) => view.getUint32(at, little);
  if (u16(2) !== 42) throw new Error("it is no classic TIFF");
  const tags = {}, first = u32(4), sizes = { 1: 1, 3: 2, 4: 4 };
  for (let k = 0; k < u16(first); k++) {
    const at = first + 2 + 12 * k, type = u16(at + 2), count = u32(at + 4), size = sizes[type];
    if (!size || count > 1e6) continue;
    const from = size * count <= 4 ? at + 8 : u32(at + 8);
    tags[u16(at)] = Array.from({ length: count }, (_, n) =>
      type === 1 ? view.getUint8(from + n) : type === 3 ? u16(from + 2 * n) : u32(from + 4 * n));
  }
  const one = (tag, otherwise) => (tags[tag] ?? [otherwise])[0];
  const width = one(256), height = one(257), samples = one(277, 1), compression = one(259, 1), predictor = one(317, 1);
  if (samples < 3 || (tags[258] ?? []).some((bits) => bits !== 8) || one(284, 1) !== 1)
    throw new Error("it is not 8-bit RGB, pixel by pixel");
  requireSize(width, height);
  const tiled = tags[322] !== undefined, tileWidth = tiled ? one(322) : width, tileHeight = tiled ? one(323) : one(278, height);
  const offsets = tags[tiled ? 324 : 273], counts = tags[tiled ? 325 : 279], across = Math.ceil(width / tileWidth);
  const rgb = new Uint8Array(3 * width * height);
  for (let k = 0; k < offsets.length; k++) {
    const bytes = new Uint8Array(buffer, offsets[k], counts[k]), left = (k % across) * tileWidth, top = Math.floor(k / across) * tileHeight;
    const rows = tiled ? tileHeight : Math.min(tileHeight, height - top);
    const pixels = await unpacked(bytes, compression, tileWidth * rows * samples);
    if (predictor === 2)
      for (let y = 0; y < rows; y++)
        for (let x = samples; x < tileWidth * samples; x++) pixels[y * tileWidth * samples + x] += pixels[y * tileWidth * samples + x - samples];
    for (let y = 0; y < rows && top + y < height; y++)
      for (let x = 0; x < tileWidth && left + x < width; x++)
        for (let c = 0; c < 3; c++) rgb[3 * ((top + y) * width + left + x) + c] = pixels[(y * tileWidth + x) * samples + c];
  }
  return { width, height, rgb };
}

async function unpacked(bytes, compression, length) {
  switch (compression) {
    case 1:
      return bytes.slice(0, length);
    case 5:
      return lzw(bytes, length);
    case 8:
    case 32946: {
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      return new Uint8Array(await new Response(stream).arrayBuffer());
    }
    default:
      throw new Error(`its compression (${compression}) is not read here; save it uncompressed, or as PNG`);
  }
}

function lzw(bytes, length) {
  const out = new Uint8Array(length), CLEAR = 256, END = 257;
  let table = [], bits = 9, at = 0, filled = 0, before = null;
  const reset = () => { table = []; bits = 9; before = null; };
  const next = () => {
    let code = 0;
    for (let k = 0; k < bits; k++, at++) code = (code << 1) | ((bytes[at >> 3] >> (7 - (at & 7))) & 1);
    return code;
  };
  const of = (code) => (code < 256 ? [code] : table[code - 258]);
  while (at + bits <= 8 * bytes.length && filled < length) {
    const code = next();
    if (code === END) break;
    if (code === CLEAR) { reset(); continue; }
    const entry = of(code) ?? (before ? [...before, before[0]] : null);
    if (!entry) throw new Error("its LZW data are damaged");
    for (const value of entry) if (filled < length) out[filled++] = value;
    if (before) table.push([...before, entry[0]]);
    before = entry;
    if (table.length + 258 >= (1 << bits) - 1 && bits < 12) bits++;
  }
  return out;
}

const MOST_PIXELS = 1e8;
function requireSize(width, height) {
  if (!(width > 0 && height > 0 && width * height <= MOST_PIXELS)) throw new Error("it has more than 100 million pixels");
}

globalThis.sentinode = { Model, decodeTiff, requireSize, PATCH_PX, CENTRE_PX, MARGIN_PX };
})();
