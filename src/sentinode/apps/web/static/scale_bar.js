// A bar of a round length in um, or mm, for the scale of a view.

const LONGEST_PX = 160;

// The longest of 1, 2 or 5 times a power of ten that fits: its length on the screen, and its words.
export function scaleBar(umPerPixel) {
  const most = LONGEST_PX * umPerPixel, ten = 10 ** Math.floor(Math.log10(most));
  const um = [5, 2, 1].find((digit) => digit * ten <= most) * ten;
  return { px: um / umPerPixel, words: um >= 1000 ? `${um / 1000} mm` : `${Number(um.toPrecision(1))} um` };
}
