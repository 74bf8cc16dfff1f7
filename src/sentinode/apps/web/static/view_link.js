// The view of a slide in the address, so that a link opens the same one: which slide, the place and the scale, and how
// the heat map is shown.

const NUMBERS = ["x", "y", "zoom", "threshold", "opacity"], WORDS = ["slide", "layer", "colours"];

// What the address says of a view; what is missing there, or is no number, is missing here.
export function viewInAddress() {
  const said = new URLSearchParams(location.hash.slice(1)), view = {};
  for (const name of WORDS) if (said.get(name)) view[name] = said.get(name);
  for (const name of NUMBERS) if (said.get(name) && Number.isFinite(Number(said.get(name)))) view[name] = Number(said.get(name));
  return view;
}

export function putInAddress(view) {
  const known = [...WORDS, ...NUMBERS].filter((name) => view[name] !== undefined);
  history.replaceState(null, "", `#${new URLSearchParams(known.map((name) => [name, view[name]]))}`);
}
