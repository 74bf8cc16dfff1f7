// Dropped patches: each is sent to the service, and gets a card. What others named is written with textContent alone,
// so that a name is never markup. The operating point decides here: nothing is asked again.

import { drawn, imageOf } from "./image.js";
import { reasonInWords } from "./reasons.js";
import { ask } from "./service.js";

const AT_ONCE = 4; // requests; the service joins them
const PIXELS = 96;
const byId = (id) => document.getElementById(id);
const list = byId("patches"), point = byId("point"), threshold = byId("decide-above"), spacing = byId("spacing");
const cards = []; // { item, file, said }, in the order in which patches came
const queue = [];
let served = null, limit = null, busy = 0;

const percent = (p) => `${(100 * p).toFixed(1)} %`;

// Say which model judges: its operating points are the choice, and the first is chosen.
export function judgeWith(model) {
  served = model;
  const points = Object.entries(served.operating_points).map(([name, found]) => {
    const option = new Option(`${name}: above ${found.threshold.toFixed(3)}`, name);
    option.title = found.rule;
    return option;
  });
  point.replaceChildren(...points, new Option(points.length ? "a threshold of your own" : "none: give a threshold", ""));
  if (points.length) usePoint();
}

function usePoint() {
  const found = served.operating_points[point.value];
  if (!found) return threshold.focus();
  threshold.value = found.threshold.toFixed(4);
  decideBy(found.threshold);
}

function decideBy(threshold) {
  limit = threshold;
  for (const card of cards) if (card.said) decide(card);
}

export function addPatches(files) {
  for (const file of files) {
    const item = byId("card").content.cloneNode(true).querySelector("li");
    item.querySelector("h3").textContent = file.name;
    picture(item.querySelector(".patch"), file);
    list.append(item);
    const card = { item, file, said: null, answered: false };
    cards.push(card);
    queue.push(card);
  }
  work();
}

async function picture(canvas, file) {
  canvas.setAttribute("aria-label", `the patch ${file.name}`);
  try {
    drawn(await imageOf(file), canvas);
  } catch (error) {
    canvas.nextElementSibling.textContent = `no picture: ${error.message}`;
  }
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

function sent({ file }) {
  const body = new FormData();
  body.append("files", file, file.name);
  return { method: "POST", body };
}

async function judge(card) {
  const { item } = card, asked = new URLSearchParams(spacing.value ? { spacing: spacing.value } : {});
  try {
    [card.said] = (await ask(`v1/predict?${asked}`, sent(card))).patches;
    decide(card);
    showReasons(card);
  } catch (error) {
    item.className = "refused";
    item.querySelector(".decision").textContent = error.message;
    return;
  } finally {
    card.answered = true;
    tell();
  }
  const more = item.querySelector(".more");
  const without = (what) => (error) => { more.textContent = [more.textContent, `${what}: ${error.message}`].filter(Boolean).join(" "); };
  if (served?.maps) await ask(`v1/explain?${asked}`, sent(card)).then((said) => showMap(item.querySelector(".map"), said), without("No map"));
  if (served?.neighbours) await ask(`v1/neighbours?${asked}`, sent(card)).then((said) => showNeighbours(item, said.neighbours[0]), without("No nearest training patches"));
}

// What the model says of a card's patch, and what the threshold makes of it.
function decide({ item, said }) {
  const tumour = limit === null ? null : said.probability > limit;
  item.className = tumour === null ? "" : tumour ? "tumour" : "clear";
  item.querySelector(".decision").textContent = `${tumour === null ? "No threshold" : tumour ? "Tumour" : "No tumour"}: ${percent(said.probability)}`;
  const bar = item.querySelector(".bar");
  bar.hidden = false;
  bar.setAttribute("aria-label", `tumour probability ${percent(said.probability)}${limit === null ? "" : `, threshold ${percent(limit)}`}`);
  bar.querySelector(".fill").style.width = `${100 * said.probability}%`;
  bar.querySelector(".threshold").hidden = limit === null;
  bar.querySelector(".threshold").style.left = `${100 * (limit ?? 0)}%`;
  const numbers = limit === null ? [] : [`threshold ${percent(limit)}`];
  if (said.calibrated_probability !== null) numbers.push(`calibrated ${percent(said.calibrated_probability)}`);
  if (said.disagreement !== null) numbers.push(`networks differ by ${percent(said.disagreement)}`);
  item.querySelector(".numbers").textContent = numbers.join("; ");
}

function showReasons({ item, said }) {
  item.querySelector(".reasons").replaceChildren(...said.reasons.map((reason) => {
    const row = document.createElement("li");
    row.textContent = reasonInWords(reason);
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

// The nearest training patches of either class, each with its label, slide and similarity, and what more it has in common.
const TIES = { equal: "the same patch", "nearly equal": "nearly the same patch", "shared tissue": "shares tissue with it" };

function showNeighbours(item, neighbours) {
  const box = item.querySelector(".neighbours");
  box.hidden = false;
  box.querySelector("p").textContent = neighbours.some(({ tie }) => tie) ? "The model knows this patch, or some of it, from training." : "";
  box.querySelector("ul").replaceChildren(...neighbours.map(({ id, label, slide, similarity, tie, picture }) => {
    const row = document.createElement("li"), canvas = document.createElement("canvas"), words = document.createElement("span");
    const told = [label ? "tumour" : "no tumour", slide ? `of ${slide}` : "slide unknown", `similarity ${similarity.toFixed(3)}`, TIES[tie]];
    row.className = label ? "tumour" : "clear";
    row.title = id;
    words.textContent = told.filter(Boolean).join(", ");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `training patch ${id}`);
    const bytes = Uint8Array.from(atob(picture.split(",")[1]), (c) => c.charCodeAt(0));
    imageOf(new Blob([bytes])).then((image) => drawn(image, canvas));
    row.append(canvas, words);
    return row;
  }));
}

point.addEventListener("change", usePoint);
threshold.addEventListener("input", () => {
  point.value = "";
  decideBy(threshold.value === "" ? null : Number(threshold.value));
});
byId("clear").addEventListener("click", () => {
  queue.length = 0;
  cards.length = 0;
  list.replaceChildren();
  work();
  byId("files").focus();
});
