// Colour maps by a few stops each. Light rises or falls all the way along each, so that none asks for colour vision.

export const MAPS = {
  violet: [[255, 237, 160], [254, 178, 76], [240, 90, 60], [177, 20, 90], [70, 0, 90]],
  viridis: [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]],
  cividis: [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]],
  magma: [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]],
};
const LEVELS = 256;

// The colour at a place from 0 to 1 along a map.
function colourAt(stops, place) {
  const at = Math.max(0, Math.min(1, place)) * (stops.length - 1), k = Math.min(Math.floor(at), stops.length - 2);
  return stops[k].map((low, c) => Math.round(low + (stops[k + 1][c] - low) * (at - k)));
}

// RGBA for each level of a grey tile, 0 of which is "not judged" and 1 to 255 stand for 0 to 1. The map spans what is
// above `least`, up to `most`; the rest is clear.
export function table(name, least, most) {
  const rgba = new Uint8ClampedArray(4 * LEVELS);
  for (let level = 1; level < LEVELS; level++) {
    const value = (level - 1) / (LEVELS - 2);
    if (value > least) rgba.set([...colourAt(MAPS[name], (value - least) / Math.max(most - least, 1e-6)), 255], 4 * level);
  }
  return rgba;
}

// Paint a map from left to right.
export function paintLegend(canvas, name) {
  const pen = canvas.getContext("2d"), row = pen.createImageData(canvas.width, 1);
  for (let x = 0; x < canvas.width; x++) row.data.set([...colourAt(MAPS[name], x / (canvas.width - 1)), 255], 4 * x);
  for (let y = 0; y < canvas.height; y++) pen.putImageData(row, 0, y);
}
