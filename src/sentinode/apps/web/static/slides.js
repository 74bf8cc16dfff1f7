// The slides: which there are, and the one that is shown by deep zoom, with its heat map, its lesions and what the guard
// says of it. How the heat map is shown is settled here, without asking the service.

import { CellLayer } from "./cells.js";
import { MAPS, paintLegend } from "./colours.js";
import { followJob, judge, tellJobsOf } from "./jobs.js";
import { reasonInWords } from "./reasons.js";
import { scaleBar } from "./scale_bar.js";
import { ask, fetched, headers, upload } from "./service.js";
import { putInAddress, viewInAddress } from "./view_link.js";

const LAYERS = {
  probability: { words: "tumour probability", most: 1, least: 0.5 },
  disagreement: { words: "networks differ by", most: 0.5, least: 0 }, // a standard deviation of numbers from 0 to 1 is 0.5 at most
};
const STEP = 0.01, MOST_LISTED = 500, POINTER_MS = 120, MARGIN = 0.25;
const NO_SLIDES = "No slides are here. Drop one, or start the service with --slides.";
const RESEARCH = "For research; not a medical device.";

const byId = (id) => document.getElementById(id);
const select = byId("slide"), layer = byId("layer"), colours = byId("colours"), opacity = byId("opacity"), threshold = byId("threshold"), outlined = byId("outlined");
const thresholds = {}; // of each layer of the open slide
let opened = null; // { card, path, viewer, cells, lesions, outlines, chosen }
let turn = 0, looked = 0, model = null; // turns of slides and of cells: an answer that comes late is not for the one that is shown

const percent = (p) => `${(100 * p).toFixed(1)} %`;
const count = (n) => n.toLocaleString("en");
const pathOf = (name) => `v1/slides/${encodeURIComponent(name)}`;
const slower = matchMedia("(prefers-reduced-motion: reduce)");

// Show the slides that the service has; `served` is its model.
export async function showSlides(served) {
  model = served;
  byId("slides").hidden = false;
  await listSlides();
  if (!select.options.length) return tellSlide(NO_SLIDES);
  await openLink();
}

// Open the slide that the address names, or else the one that is chosen.
async function openLink() {
  const { slide } = viewInAddress(), isHere = [...select.options].some((option) => option.value === slide);
  byId("link-is").textContent = slide && !isHere ? `The slide of the link, ${slide}, is not here.` : "";
  if (isHere) select.value = slide;
  await openSlide();
}

async function listSlides() {
  const { slides } = await ask("v1/slides");
  select.replaceChildren(...slides.map((name) => new Option(name, name)));
  select.disabled = !slides.length;
}

function tellSlide(text) {
  byId("slide-is").textContent = text;
}

function close() {
  opened?.cells?.remove();
  opened?.viewer.destroy();
  opened = null;
  byId("sheet").hidden = byId("shown").hidden = true;
  byId("judge").hidden = byId("remove").hidden = true;
}

async function openSlide() {
  const mine = ++turn, name = select.value, path = pathOf(name);
  close();
  tellJobsOf(name);
  if (!name) return;
  tellSlide(`${name} is being opened …`);
  try {
    const card = await ask(path);
    const lesions = card.heat_map ? (await ask(`${path}/lesions.geojson`)).features : [];
    if (mine !== turn) return; // another slide was chosen meanwhile
    describe(card);
    byId("sheet").hidden = false;
    opened = { card, path, viewer: deepZoom(card, path), cells: null, lesions, outlines: outlinesOf(lesions), chosen: -1 };
    byId("shown").hidden = !card.heat_map;
    byId("judge").hidden = !card.spacing_um_per_px || card.heat_map?.model_sha256 === model.model_sha256;
    byId("remove").hidden = !card.uploaded;
    showFindings(card, lesions);
    if (card.heat_map) chooseLayers(card.heat_map);
    opened.viewer.addOnceHandler("open", () => {
      if (card.heat_map) opened.cells = new CellLayer(opened.viewer, card.heat_map, `${path}/heatmap_files`);
      applyView(viewInAddress());
    });
    followJob(openSlide);
  } catch (error) {
    if (mine === turn) tellSlide(error.message);
  }
}

function describe(card) {
  const um = card.spacing_um_per_px, found = card.heat_map;
  const size = `${count(card.width_px)} x ${count(card.height_px)} pixels, ${um ? `${um[0].toPrecision(3)} um a pixel` : "of unknown spacing: it has no scale, and cannot be judged"}`;
  const judged = found ? `judged in cells of ${found.step_um[0].toFixed(0)} um` : "not judged yet";
  const other = found && found.model_sha256 !== model.model_sha256 ? `, by another model (${found.model_sha256.slice(0, 12)})` : "";
  tellSlide(`${size}; ${judged}${other}`);
}

function deepZoom(card, path) {
  const viewer = new OpenSeadragon({
    element: byId("viewer"), drawer: "canvas", showNavigationControl: false, loadTilesWithAjax: true, ajaxHeaders: headers(),
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, animationTime: slower.matches ? 0 : 1,
    tileSources: {
      width: card.width_px, height: card.height_px, tileSize: card.tile_px, tileOverlap: 0,
      getTileUrl: (level, x, y) => `${path}/image_files/${level}/${x}_${y}.jpeg`,
    },
  });
  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute("aria-label", `the slide ${card.name}`);
  viewer.canvas.setAttribute("aria-describedby", "keys");
  viewer.addHandler("canvas-key", pressed);
  viewer.addHandler("update-viewport", drawScale);
  viewer.addHandler("animation-finish", keepView);
  viewer.canvas.addEventListener("pointermove", pointed);
  return viewer;
}

// --- how the heat map is shown ---

function chooseLayers(place) {
  layer.replaceChildren(...place.layers.map((name) => new Option(LAYERS[name].words, name)));
  for (const name of place.layers) thresholds[name] = LAYERS[name].least;
  thresholds.probability = place.threshold;
  layer.disabled = place.layers.length === 1;
  useLayer();
}

function useLayer() {
  threshold.max = LAYERS[layer.value].most;
  threshold.value = thresholds[layer.value];
  show();
}

function useThreshold(value) {
  threshold.value = value;
  thresholds[layer.value] = Number(threshold.value);
  show();
}

function show() {
  const { most, words } = LAYERS[layer.value], least = thresholds[layer.value];
  byId("threshold-is").textContent = least.toFixed(2);
  byId("opacity-is").textContent = percent(Number(opacity.value)).replace(".0", "");
  paintLegend(byId("legend"), colours.value);
  byId("legend").setAttribute("aria-label", `${words}: the colours from ${percent(least)} to ${percent(most)}`);
  byId("legend-is").textContent = `${words}: ${percent(least)} to ${percent(most)}; what is below is clear`;
  const lines = outlined.checked ? opened?.outlines : null;
  opened?.cells?.show({ layer: layer.value, colours: colours.value, least, most, opacity: Number(opacity.value), outlines: lines });
}

// --- the view: its scale, its link, its picture ---

function drawScale() {
  const um = opened.card.spacing_um_per_px, bar = byId("scale-bar");
  bar.hidden = !um;
  if (!um) return;
  const { viewport } = opened.viewer, { px, words } = scaleBar(um[0] / viewport.viewportToImageZoom(viewport.getZoom(true)));
  bar.querySelector("span").style.width = `${px}px`;
  bar.querySelector("b").textContent = words;
}

function currentView() {
  const { viewport } = opened.viewer, centre = viewport.viewportToImageCoordinates(viewport.getCenter());
  const view = { slide: opened.card.name, x: centre.x.toFixed(2), y: centre.y.toFixed(2), zoom: Number(viewport.viewportToImageZoom(viewport.getZoom()).toPrecision(9)) };
  if (!opened.card.heat_map) return view;
  return { ...view, layer: layer.value, threshold: Number(thresholds[layer.value].toPrecision(6)), opacity: opacity.value, colours: colours.value };
}

function keepView() {
  if (opened?.viewer.viewport) putInAddress(currentView());
}

function applyView(view) {
  if (opened.card.heat_map) {
    if (Object.hasOwn(MAPS, view.colours ?? "")) colours.value = view.colours;
    if (view.opacity !== undefined) opacity.value = view.opacity;
    if (opened.card.heat_map.layers.includes(view.layer)) layer.value = view.layer;
    if (view.slide === opened.card.name && view.threshold !== undefined)
      thresholds[layer.value] = Math.max(0, Math.min(LAYERS[layer.value].most, view.threshold));
    useLayer();
  }
  const { viewport } = opened.viewer;
  if (view.slide !== opened.card.name || !(view.zoom > 0) || view.x === undefined || view.y === undefined) return;
  viewport.zoomTo(viewport.imageToViewportZoom(view.zoom), null, true);
  viewport.panTo(viewport.imageToViewportCoordinates(view.x, view.y), true);
}

// The view as a canvas: the slide, what lies over it, the scale, and whose it is.
function picture() {
  const { card, cells, viewer } = opened, slide = viewer.drawer.canvas, ratio = slide.width / viewer.viewport.getContainerSize().x;
  const lines = [card.name, ...(cells ? [`${byId("legend-is").textContent}; model ${card.heat_map.model_sha256.slice(0, 12)}`] : []), RESEARCH];
  const line = 20 * ratio, canvas = Object.assign(document.createElement("canvas"), { width: slide.width, height: slide.height + (lines.length + 0.5) * line });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(slide, 0, 0);
  if (cells) pen.drawImage(cells.canvas, 0, 0, slide.width, slide.height);
  pen.font = `${14 * ratio}px system-ui, sans-serif`;
  if (!byId("scale-bar").hidden) {
    const width = byId("scale-bar").querySelector("span").offsetWidth * ratio, words = byId("scale-bar").textContent.trim();
    pen.fillStyle = "#ffffffd9";
    pen.fillRect(line / 2, slide.height - 2.25 * line, Math.max(width, pen.measureText(words).width) + line, 1.75 * line);
    pen.fillStyle = "#000";
    pen.fillRect(line, slide.height - line, width, 4 * ratio);
    pen.fillText(words, line, slide.height - 1.3 * line);
  }
  pen.fillStyle = "#000";
  lines.forEach((text, k) => pen.fillText(text, line / 2, slide.height + (k + 0.9) * line, canvas.width - line));
  if (cells) pen.drawImage(byId("legend"), canvas.width - 8 * line, slide.height + 0.25 * line, 7.5 * line, line / 2);
  return canvas;
}

async function savePicture() {
  const blob = await new Promise((done) => picture().toBlob(done, "image/png"));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: `${opened.card.name}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function copyLink() {
  keepView();
  const told = byId("link-is");
  try {
    await navigator.clipboard.writeText(location.href);
    told.textContent = "The link is copied.";
  } catch {
    told.textContent = `The link stands in the address: ${location.href}`;
  }
}

// --- what was found ---

const ringsOf = ({ geometry: { type, coordinates } }) => (type === "Polygon" ? [coordinates] : coordinates).flat();

function outlinesOf(lesions) {
  const path = new Path2D();
  for (const ring of lesions.flatMap(ringsOf)) {
    ring.forEach(([x, y], k) => (k ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

function showFindings(card, lesions) {
  const found = card.heat_map, more = lesions.length - MOST_LISTED;
  byId("findings").hidden = !found;
  if (!found) return;
  byId("lesions-are").textContent = `${lesions.length ? count(lesions.length) : "None"} above ${found.threshold.toFixed(3)} (${found.threshold_rule}), the largest first${more > 0 ? `; ${count(more)} smaller ones are not listed` : ""}.`;
  byId("lesions").replaceChildren(...lesions.slice(0, MOST_LISTED).map(({ properties: { size, measurements } }, k) => {
    const row = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.textContent = `${size}, ${areaOf(measurements["area mm2"])} mm2, ${count(Math.round(measurements["longest axis um"]))} um long, up to ${percent(measurements["max probability"])}`;
    button.addEventListener("click", () => goToLesion(k));
    row.append(button);
    return row;
  }));
  const reasons = Object.entries(found.reasons).sort(([, a], [, b]) => b - a);
  byId("reasons").replaceChildren(...reasons.map(([word, share]) => {
    const row = document.createElement("li");
    row.textContent = `${reasonInWords(word)}: ${share < 0.0005 ? "less than 0.1 %" : percent(share)} of the tissue`;
    return row;
  }));
  byId("reasons-are").textContent = reasons.length ? "" : "Nothing: all tissue is like lymph node in H&E, and was judged.";
  byId("cell").textContent = "";
}

const areaOf = (mm2) => (mm2 >= 0.01 ? mm2.toFixed(2) : mm2.toPrecision(1));

function goToLesion(k) {
  const { lesions, viewer: { viewport } } = opened, listed = byId("lesions").children;
  if (!lesions.length) return;
  opened.chosen = (k + listed.length) % listed.length;
  [...listed].forEach((row, n) => (n === opened.chosen ? row.firstChild.setAttribute("aria-current", "true") : row.firstChild.removeAttribute("aria-current")));
  byId("lesions").scrollTop = listed[opened.chosen].offsetTop - byId("lesions").clientHeight / 2; // the list alone, not the page
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of ringsOf(lesions[opened.chosen]).flat())
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
  const margin = MARGIN * Math.max(right - left, bottom - top);
  viewport.fitBounds(viewport.imageToViewportRectangle(left - margin, top - margin, right - left + 2 * margin, bottom - top + 2 * margin), slower.matches);
}

let pointing = 0;
function pointed({ offsetX, offsetY }) {
  clearTimeout(pointing);
  pointing = setTimeout(() => tellCell(new OpenSeadragon.Point(offsetX, offsetY)), POINTER_MS);
}

// Say what was judged of the cell at a point of the viewer, in its own pixels.
async function tellCell(point) {
  if (!opened?.card.heat_map) return;
  const { card, path, viewer } = opened, { x, y } = viewer.viewport.viewerElementToImageCoordinates(point);
  if (x < 0 || y < 0 || x >= card.width_px || y >= card.height_px) return;
  const place = `At ${count(Math.round(x))}, ${count(Math.round(y))}: `;
  const mine = ++looked;
  const told = await ask(`${path}/cells?${new URLSearchParams({ x: x.toFixed(1), y: y.toFixed(1) })}`).then(
    ({ probability, disagreement, reason }) => [
      probability === null ? "not judged" : `tumour ${percent(probability)}`,
      ...(disagreement === null ? [] : [`networks differ by ${percent(disagreement)}`]), ...(reason ? [reasonInWords(reason)] : []),
    ].join("; "),
    (error) => error.message,
  );
  if (mine === looked && opened?.card === card) byId("cell").textContent = place + told;
}

// --- slides that come and go ---

export async function addSlide(file) {
  const told = byId("sent-is"), bar = byId("sent");
  bar.hidden = false;
  try {
    const spacing = byId("slide-spacing").value, asked = new URLSearchParams({ name: file.name, ...(spacing && { spacing }) });
    const card = await upload(`v1/slides?${asked}`, file, (share) => {
      bar.value = share;
      told.textContent = share < 1 ? `${file.name}: ${percent(share)} is sent` : `${file.name}: being looked at …`;
    });
    told.textContent = `${file.name} is there.`;
    await listSlides();
    select.value = card.name;
    await openSlide();
  } catch (error) {
    told.textContent = error.message;
  } finally {
    bar.hidden = true;
  }
}

async function removeSlide() {
  const { card, path } = opened;
  try {
    await fetched(path, { method: "DELETE" });
    byId("sent-is").textContent = `${card.name} is removed.`;
    await listSlides();
    await openSlide();
    if (!select.value) tellSlide(NO_SLIDES);
    byId("slide-files").focus();
  } catch (error) {
    byId("sent-is").textContent = error.message;
  }
}

// --- keys and controls ---

const KEYS = {
  "[": () => useThreshold(Number(threshold.value) - STEP),
  "]": () => useThreshold(Number(threshold.value) + STEP),
  ",": () => changed(opacity, Number(opacity.value) - 0.1),
  ".": () => changed(opacity, Number(opacity.value) + 0.1),
  l: () => next(layer),
  c: () => next(colours),
  n: () => goToLesion(opened.chosen + 1),
  p: () => goToLesion(opened.chosen < 0 ? -1 : opened.chosen - 1),
  o: () => { outlined.checked = !outlined.checked; show(); },
  i: () => tellCell(opened.viewer.viewport.getContainerSize().divide(2)),
};
const OF_THE_VIEWER = /^(Arrow|Key[WASD]$|Equal$|Minus$|Digit0$|Numpad)/;

function pressed(event) {
  const { key, code, ctrlKey, altKey, metaKey } = event.originalEvent;
  if (ctrlKey || altKey || metaKey || !OF_THE_VIEWER.test(code)) event.preventDefaultAction = true; // it would turn or mirror the slide
  if (ctrlKey || altKey || metaKey || !opened.card.heat_map || !(key in KEYS)) return;
  event.preventDefaultAction = true;
  KEYS[key]();
  keepView();
}

function changed(control, value) {
  control.value = value;
  control.dispatchEvent(new Event("input"));
}

function next(choice) {
  choice.selectedIndex = (choice.selectedIndex + 1) % choice.options.length;
  choice.dispatchEvent(new Event("change"));
}

const zoomBy = (factor) => () => { opened.viewer.viewport.zoomBy(factor); opened.viewer.viewport.applyConstraints(); };

// OpenSeadragon would add a style for touch screens, which the policy of this page refuses, unless one is there: this is
// of no language, and styles nothing.
const styled = document.createElementNS(null, "style");
styled.setAttribute("data-openseadragon-mobile-css", "");
document.head.append(styled);

colours.replaceChildren(...Object.keys(MAPS).map((name) => new Option(name, name)));
select.addEventListener("change", openSlide);
layer.addEventListener("change", () => { useLayer(); keepView(); });
colours.addEventListener("change", () => { show(); keepView(); });
outlined.addEventListener("change", show);
opacity.addEventListener("input", show);
threshold.addEventListener("input", () => useThreshold(threshold.value));
for (const control of [opacity, threshold]) control.addEventListener("change", keepView);
byId("closer").addEventListener("click", zoomBy(2));
byId("farther").addEventListener("click", zoomBy(0.5));
byId("whole").addEventListener("click", () => opened.viewer.viewport.goHome());
byId("copy-link").addEventListener("click", copyLink);
byId("save").addEventListener("click", savePicture);
byId("judge").addEventListener("click", () => judge(openSlide));
byId("remove").addEventListener("click", removeSlide);
byId("slide-files").addEventListener("change", ({ target }) => { if (target.files.length) addSlide(target.files[0]); target.value = ""; });
addEventListener("hashchange", () => {
  const view = viewInAddress();
  if (!view.slide || !opened) return;
  if (view.slide === opened.card.name) applyView(view);
  else openLink();
});
