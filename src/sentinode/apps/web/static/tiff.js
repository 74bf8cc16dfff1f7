// Browsers show no TIFF. The competition's are plain: 8-bit RGB, not compressed. These are read here, for the picture
// alone; what is judged is the file, which the service decodes.

const WIDTH = 256, HEIGHT = 257, COMPRESSION = 259, PHOTOMETRIC = 262, STRIPS = 273, SAMPLES = 277;
const LARGEST_PX = 4096;

// The picture of a plain TIFF, or null for any other file.
export function plainTiff(buffer) {
  try {
    const view = new DataView(buffer), little = view.getUint16(0) === 0x4949;
    if (view.getUint16(2, little) !== 42) return null;
    const directory = view.getUint32(4, little), tags = new Map();
    for (let k = 0; k < view.getUint16(directory, little); k++) {
      const at = directory + 2 + 12 * k, short = view.getUint16(at + 2, little) === 3;
      tags.set(view.getUint16(at, little), { count: view.getUint32(at + 4, little), value: short ? view.getUint16(at + 8, little) : view.getUint32(at + 8, little), at: at + 8 });
    }
    const of = (tag) => tags.get(tag)?.value;
    const width = of(WIDTH), height = of(HEIGHT), strips = tags.get(STRIPS);
    if (of(COMPRESSION) !== 1 || of(PHOTOMETRIC) !== 2 || of(SAMPLES) !== 3 || !(Math.max(width, height) <= LARGEST_PX)) return null;
    // Strips that lie one behind the other, as nearly all programs write them.
    const start = strips.count === 1 ? strips.value : view.getUint32(strips.value, little);
    const rgb = new Uint8Array(buffer, start, 3 * width * height), image = new ImageData(width, height);
    for (let k = 0; k < width * height; k++) {
      image.data.set(rgb.subarray(3 * k, 3 * k + 3), 4 * k);
      image.data[4 * k + 3] = 255;
    }
    return image;
  } catch {
    return null; // it ends before it should
  }
}
