// Slides by deep zoom, and over them the heat map: 8-bit probabilities of cells, which are coloured here, so that the
// limit and the opacity change without asking the service.

const byId = (id) => document.getElementById(id);
const select = byId("slide"), opacity = byId("opacity"), limit = byId("limit");
// From pale yellow to dark violet: light falls all the way, so that no colour vision is needed.
const COLOURS = [[255, 237, 160], [254, 178, 76], [240, 90, 60], [177, 20, 90], [70, 0, 90]];
let viewer = null, asked = 0, cells = null;

function coloured(value) {
  const at = value * (COLOURS.length - 1), k = Math.min(Math.floor(at), COLOURS.length - 2);
  return COLOURS[k].map((low, c) => low + (COLOURS[k + 1][c] - low) * (at - k));
}

function paint() {
  byId("limit-is").textContent = Number(limit.value).toFixed(2);
  if (!cells) return;
  const { canvas, levels } = cells, pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height), least = Number(limit.value);
  for (let k = 0; k < levels.length; k++) {
    const probability = (levels[k] - 1) / 254;
    if (!levels[k] || probability <= least) continue;
    image.data.set(coloured((probability - least) / Math.max(1 - least, 1e-6)), 4 * k);
    image.data[4 * k + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  canvas.style.opacity = opacity.value;
}

async function heatMap(card, path, headers) {
  const answer = await fetch(`${path}/heatmap.png`, { headers });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  const image = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const rgba = pen.getImageData(0, 0, image.width, image.height).data;
  canvas.style.imageRendering = "pixelated";
  return { canvas, levels: Uint8Array.from({ length: rgba.length / 4 }, (_, k) => rgba[4 * k]) };
}

async function open(ask, headers) {
  const turn = ++asked, path = `v1/slides/${encodeURIComponent(select.value)}`;
  cells = null;
  viewer?.destroy();
  viewer = null;
  try {
    const card = await ask(path);
    const um = card.spacing_um_per_px ? `${card.spacing_um_per_px[0].toPrecision(3)} um a pixel` : "no spacing";
    const found = card.heat_map;
    const told = found ? `cells of ${found.step_um[0].toFixed(0)} um; threshold ${found.threshold.toFixed(3)} (${found.threshold_rule})` : "no heat map";
    byId("slide-is").textContent = `${card.width_px.toLocaleString("en")} x ${card.height_px.toLocaleString("en")} pixels, ${um}; ${told}`;
    const heat = found && await heatMap(card, path, headers);
    if (turn !== asked) return; // another slide was chosen meanwhile
    opacity.disabled = limit.disabled = !found;
    viewer = new OpenSeadragon({
      element: byId("viewer"), drawer: "canvas", showNavigationControl: false, loadTilesWithAjax: true, ajaxHeaders: headers,
      tileSources: {
        width: card.width_px, height: card.height_px, tileSize: card.tile_px, tileOverlap: 0,
        getTileUrl: (level, x, y) => `${path}/image_files/${level}/${x}_${y}.jpeg`,
      },
    });
    viewer.canvas.setAttribute("role", "application");
    viewer.canvas.setAttribute("aria-label", `the slide ${card.name}: arrows move, plus and minus zoom, 0 shows all`);
    if (!found) return;
    limit.value = found.threshold;
    cells = heat;
    const width = found.columns * found.step_px[0] / card.width_px, height = found.rows * found.step_px[1] / card.width_px;
    viewer.addHandler("open", () => viewer.addOverlay({ element: heat.canvas, location: new OpenSeadragon.Rect(0, 0, width, height) }));
    paint();
  } catch (error) {
    byId("slide-is").textContent = error.message;
  }
}

// Show the slides that the service has, if any; `ask` and `headers` are the page's, with its token.
export async function showSlides(ask, headers) {
  const { slides } = await ask("v1/slides");
  byId("slides").hidden = !slides.length;
  if (!slides.length) return;
  select.replaceChildren(...slides.map((name) => new Option(name, name)));
  select.onchange = () => open(ask, headers());
  await open(ask, headers());
}

opacity.addEventListener("input", paint);
limit.addEventListener("input", paint);
