// What the guard says, in words: of a patch, a cell or a slide.

export const reasonInWords = (reason) => (reason.startsWith("unlike ") ? `unlike lymph node in H&E, by its ${reason.slice("unlike ".length)}` : reason);
