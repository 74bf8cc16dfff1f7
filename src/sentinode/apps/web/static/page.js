// The page: asks the service what it serves, shows it, and hands what is dropped to patches or slides.

import { addPatches, judgeWith } from "./patches.js";
import { ask, useToken } from "./service.js";
import { addSlide, showSlides } from "./slides.js";

const byId = (id) => document.getElementById(id);
const files = byId("files"), zones = document.querySelectorAll(".drop"); // of patches, of slides

async function showModel() {
  let served;
  try {
    served = await ask("v1/model");
  } catch (error) {
    byId("token-form").hidden = error.status !== 401;
    byId("model").textContent = error.status === 401 ? "The service does not answer without its token." : `The service cannot be asked: ${error.message}`;
    return;
  }
  byId("token-form").hidden = true;
  const count = (n) => n.toLocaleString("en");
  const networks = `${served.networks} network${served.networks > 1 ? "s" : ""} (${served.architectures.join(", ")})`;
  const data = served.data ? ` ${served.data}.` : "";
  byId("model").textContent = `${served.name}: ${served.kind} of ${networks}, trained on ${count(served.training_patches)} patches, ` +
    `validated on ${count(served.validation_patches)}; ${served.split}.${data} ` +
    (served.maps ? `Maps: ${served.maps.replace("_", " ")}, which passed its exam; orange for tumour, blue against, and the square is the centre that a label speaks of.` : `No maps: ${served.no_maps}.`) +
    (served.no_neighbours ? ` No nearest training patches: ${served.no_neighbours}.` : "");
  byId("scores").replaceChildren(...Object.entries(served.scores).map(([name, score]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = name.replaceAll("_", " ");
    const ends = score.low === null ? "interval unknown" : `${score.low.toFixed(3)} to ${score.high.toFixed(3)}`;
    value.textContent = score.estimate === null ? "unknown" : `${score.estimate.toFixed(3)} (${ends})`;
    row.append(term, value);
    return row;
  }));
  judgeWith(served);
  await showSlides(served);
}

// Of what is dropped anywhere, that is a slide which is dropped on the slides, has a slide's name, or is too large for a patch.
const SLIDES = /\.(svs|svslide|ndpi|scn|bif|czi|mrxs|dcm|vms|vmu)$/i, LARGEST_PATCH = 16 * 2 ** 20;

function dropped(event) {
  const [onSlides, all] = [event.target.closest?.("#slides"), [...event.dataTransfer.files]];
  const isSlide = (file) => onSlides || SLIDES.test(file.name) || file.size > LARGEST_PATCH;
  addPatches(all.filter((file) => !isSlide(file)));
  addSlides(all.filter(isSlide));
}

async function addSlides(found) {
  for (const file of found) await addSlide(file);
}

function mark(event) {
  for (const zone of zones) zone.classList.toggle("over", event !== null && (zone === zones[0]) !== Boolean(event.target.closest?.("#slides")));
}

files.addEventListener("change", () => { addPatches(files.files); files.value = ""; });
for (const kind of ["dragenter", "dragover"]) addEventListener(kind, (event) => { event.preventDefault(); mark(event); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(null); });
addEventListener("drop", (event) => { event.preventDefault(); mark(null); dropped(event); });
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(byId("token").value.trim());
  showModel();
});
showModel();
