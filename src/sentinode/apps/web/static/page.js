// The page: asks the service what it serves, sends it each dropped patch, and shows what comes back.
// What others named is written with textContent alone, so that a name is never markup.

import { showSlides } from "./slides.js";
import { plainTiff } from "./tiff.js";

const AT_ONCE = 4; // requests; the service joins them
const AGAIN_MS = 1000;
const PIXELS = 96;

const byId = (id) => document.getElementById(id);
const drop = byId("drop"), files = byId("files"), list = byId("patches"), point = byId("point"), spacing = byId("spacing");
const cards = []; // { item, file }, in the order in which patches came
let token = "", served = null, busy = 0;
const queue = [];

const headers = () => (token ? { authorization: `Bearer ${token}` } : {});

async function ask(path, options = {}) {
  for (;;) {
    const answer = await fetch(path, { ...options, headers: headers() });
    if (answer.status === 429 || answer.status === 503) {
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS * Number(answer.headers.get("retry-after") || 1)));
      continue;
    }
    const said = await answer.json();
    if (answer.ok) return said;
    throw Object.assign(new Error(said.detail), { status: answer.status });
  }
}

async function showModel() {
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
    (served.maps ? `Maps: ${served.maps.replace("_", " ")}, which passed its exam; orange for tumour, blue against, and the square is the centre that a label speaks of.` : `No maps: ${served.no_maps}.`);
  byId("scores").replaceChildren(...Object.entries(served.scores).map(([name, score]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), value = document.createElement("dd");
    term.textContent = name.replaceAll("_", " ");
    const ends = score.low === null ? "interval unknown" : `${score.low.toFixed(3)} to ${score.high.toFixed(3)}`;
    value.textContent = score.estimate === null ? "unknown" : `${score.estimate.toFixed(3)} (${ends})`;
    row.append(term, value);
    return row;
  }));
  point.replaceChildren(...Object.entries(served.operating_points).map(([name, found]) => {
    const option = new Option(`${name}: above ${found.threshold.toFixed(3)}`, name);
    option.title = found.rule;
    return option;
  }));
  point.disabled = !point.options.length;
  await showSlides(ask, headers);
}

function add(chosen) {
  for (const file of chosen) {
    const item = byId("card").content.cloneNode(true).querySelector("li");
    item.querySelector("h3").textContent = file.name;
    picture(item.querySelector(".patch"), file);
    list.append(item);
    const card = { item, file };
    cards.push(card);
    queue.push(card);
  }
  work();
}

async function picture(canvas, file) {
  canvas.setAttribute("aria-label", `the patch ${file.name}`);
  let image = plainTiff(await file.arrayBuffer());
  try {
    image = image && await createImageBitmap(image) || await createImageBitmap(file);
  } catch {
    canvas.nextElementSibling.textContent = "your browser has no picture of this file";
    return;
  }
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").drawImage(image, 0, 0);
}

function work() {
  while (busy < AT_ONCE && queue.length) {
    busy += 1;
    judge(queue.shift()).finally(() => { busy -= 1; work(); });
  }
  tell();
}

function tell() {
  byId("done").textContent = cards.length ? `${cards.filter((card) => card.answered).length} of ${cards.length} patches are answered` : "";
}

async function judge(card) {
  const { item, file } = card;
  const sent = () => {
    const body = new FormData();
    body.append("files", file, file.name);
    return { method: "POST", body };
  };
  const asked = new URLSearchParams(spacing.value ? { spacing: spacing.value } : {});
  const decided = new URLSearchParams([...asked, ...(point.value ? [["threshold", point.value]] : [])]);
  const map = item.querySelector(".map");
  try {
    const said = await ask(`v1/predict?${decided}`, sent());
    show(item, said, said.patches[0]);
  } catch (error) {
    item.className = "refused";
    item.querySelector(".decision").textContent = error.message;
    return;
  } finally {
    card.answered = true;
    tell();
  }
  if (!served?.maps || !map.hidden) return;
  try {
    showMap(map, await ask(`v1/explain?${asked}`, sent()));
  } catch (error) {
    item.querySelector(".numbers").append(`; ${error.message}`);
  }
}

function show(item, said, patch) {
  const percent = (p) => `${(100 * p).toFixed(1)} %`;
  const word = patch.tumour === null ? "No operating point" : patch.tumour ? "Tumour" : "No tumour";
  item.className = patch.tumour === null ? "" : patch.tumour ? "tumour" : "clear";
  item.querySelector(".decision").textContent = `${word}: ${percent(patch.probability)}`;
  const bar = item.querySelector(".bar");
  bar.hidden = false;
  bar.setAttribute("role", "img");
  const limit = said.threshold === null ? "" : `, threshold ${percent(said.threshold)}`;
  bar.setAttribute("aria-label", `tumour probability ${percent(patch.probability)}${limit}`);
  bar.querySelector(".fill").style.width = percent(patch.probability).replace(" ", "");
  bar.querySelector(".threshold").hidden = said.threshold === null;
  if (said.threshold !== null) bar.querySelector(".threshold").style.left = percent(said.threshold).replace(" ", "");
  const numbers = said.threshold === null ? [] : [`threshold ${percent(said.threshold)}`];
  if (patch.calibrated_probability !== null) numbers.push(`calibrated ${percent(patch.calibrated_probability)}`);
  if (patch.disagreement !== null) numbers.push(`networks differ by ${percent(patch.disagreement)}`);
  item.querySelector(".numbers").textContent = numbers.join("; ");
  item.querySelector(".reasons").replaceChildren(...patch.reasons.map((reason) => {
    const row = document.createElement("li");
    row.textContent = reason.startsWith("unlike ") ? `unlike lymph node in H&E, by its ${reason.slice(7)}` : reason;
    return row;
  }));
}

// Orange for tumour, blue against: told apart by the colour-blind too.
function showMap(figure, said) {
  const bytes = Uint8Array.from(atob(said.map), (c) => c.charCodeAt(0));
  const values = new DataView(bytes.buffer), canvas = figure.querySelector("canvas"), pen = canvas.getContext("2d");
  const image = pen.createImageData(PIXELS, PIXELS);
  for (let k = 0; k < PIXELS * PIXELS; k++) {
    const value = Math.max(-1, Math.min(1, values.getFloat32(4 * k, true) / said.limit));
    const end = value > 0 ? [179, 71, 0] : [0, 99, 156];
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = 247 + (end[c] - 247) * Math.abs(value);
    image.data[4 * k + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  pen.strokeStyle = "#1b1f24";
  pen.strokeRect(31.5, 31.5, 33, 33); // the centre, of which the label speaks
  const method = said.method.replace("_", " ");
  canvas.setAttribute("aria-label", `where the evidence lies, by ${method}: orange for tumour, blue against`);
  figure.querySelector("figcaption").textContent = method;
  figure.hidden = false;
}

files.addEventListener("change", () => { add(files.files); files.value = ""; });
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); add(event.dataTransfer.files); });
byId("clear").addEventListener("click", () => { queue.length = 0; cards.length = 0; list.replaceChildren(); work(); files.focus(); });
point.addEventListener("change", () => { queue.push(...cards.filter((card) => !queue.includes(card))); work(); });
byId("token-form").addEventListener("submit", (event) => { event.preventDefault(); token = byId("token").value.trim(); showModel(); });
showModel();
