// The pixels of an image file, for both pages. Browsers show no TIFF, so these are decoded here: uncompressed, LZW or
// deflated, 8 bits of RGB or RGBA, in strips or tiles. A file that neither reads is refused in words.

const MOST_PIXELS = 1e8;

// Of a file: {width, height, rgb}, row by row.
export async function imageOf(file) {
  const bytes = await file.arrayBuffer(), head = new Uint8Array(bytes, 0, Math.min(4, bytes.byteLength));
  if ((head[0] === 0x49 && head[1] === 0x49) || (head[0] === 0x4d && head[1] === 0x4d)) 
    return decodeTiff(bytes).catch((error) => {
      throw error instanceof RangeError ? new Error("it ends before it should") : error;
    });
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" }).catch(() => {
    throw new Error("it is no image that this browser reads");
  });
  requireSize(bitmap.width, bitmap.height);
  const pen = canvasOf(bitmap).getContext("2d");
  pen.fillStyle = "white"; // what is transparent is glass
  pen.fillRect(0, 0, bitmap.width, bitmap.height);
  pen.drawImage(bitmap, 0, 0);
  const rgba = pen.getImageData(0, 0, bitmap.width, bitmap.height).data, rgb = new Uint8Array(3 * bitmap.width * bitmap.height);
  for (let k = 0, to = 0; k < rgba.length; k++) if (k % 4 !== 3) rgb[to++] = rgba[k];
  return { width: bitmap.width, height: bitmap.height, rgb };
}

// A canvas with an image's pixels: a new one, or the one that is given.
export function drawn(image, canvas = canvasOf(image)) {
  [canvas.width, canvas.height] = [image.width, image.height];
  const pen = canvas.getContext("2d"), pixels = pen.createImageData(image.width, image.height);
  for (let k = 0, from = 0; k < pixels.data.length; k++) pixels.data[k] = k % 4 === 3 ? 255 : image.rgb[from++];
  pen.putImageData(pixels, 0, 0);
  return canvas;
}

function canvasOf({ width, height }) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function requireSize(width, height) {
  if (!(width > 0 && height > 0 && width * height <= MOST_PIXELS)) throw new Error("it has more than 100 million pixels");
}

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
  if (samples < 3 || (tags[258] ?? []).some((bits) => bits !== 8) || one(284, 1) !== 1 || one(262, 2) !== 2)
    throw new Error("it is not 8-bit RGB, pixel by pixel");
  requireSize(width, height);
  const tiled = tags[322] !== undefined, tileWidth = tiled ? one(322) : width, tileHeight = tiled ? one(323) : one(278, height);
  const offsets = tags[tiled ? 324 : 273], counts = tags[tiled ? 325 : 279], across = Math.ceil(width / tileWidth);
  const rgb = new Uint8Array(3 * width * height);
  for (let k = 0; k < offsets.length; k++) {
    const bytes = new Uint8Array(buffer, offsets[k], counts[k]), left = (k % across) * tileWidth, top = Math.floor(k / across) * tileHeight;
    const rows = tiled ? tileHeight : Math.min(tileHeight, height - top);
    const length = tileWidth * rows * samples, pixels = await unpacked(bytes, compression, length);
    if (pixels.length < length) throw new RangeError();
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
      return new Uint8Array(await new Response(stream).arrayBuffer().catch(() => {
        throw new Error("its deflated data are damaged");
      }));
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
  return out.subarray(0, filled);
}
