// A trained model in the browser: patches in, logits out, as `sentinode predict` has them to 1e-4. Nothing is sent.

export const PATCH_PX = 96, CENTRE_PX = 32, MARGIN_PX = 32;

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

export class Model {
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
