// A heat map over a slide: grey tiles of its cells, in Deep Zoom numbering, coloured here. Threshold, colours and opacity
// change without asking the service; only tiles that come into view are asked for.

import { table } from "./colours.js";
import { fetched } from "./service.js";

const AT_ONCE = 6; // requests for tiles
const MOST_KEPT = 200; // tiles, of 0.3 MB each
const STROKES = [["#fff", 4], ["#1b1f24", 2]]; // outlines are seen on pale and on dark
const THICK_FROM_PX = 8; // a cell's side, below which they are thinner

export class CellLayer {
  // `viewer` is of OpenSeadragon and open; `place` is the card's heat_map; tiles lie below `path`.
  constructor(viewer, place, path) {
    Object.assign(this, { viewer, place, path, wanted: [], loading: new Set(), tiles: new Map(), look: null });
    this.canvas = document.createElement("canvas");
    this.canvas.className = "cells";
    viewer.canvas.append(this.canvas);
    this.redraw = () => this.draw();
    viewer.addHandler("update-viewport", this.redraw);
  }

  // Show a layer: `colours` from `least` to `most`, with an opacity from 0 to 1, and `outlines`, a path in pixels of
  // level 0, or null.
  show(look) {
    this.look = look;
    this.table = new Uint32Array(table(look.colours, look.least, look.most).buffer);
    this.draw();
  }

  draw() {
    const { viewer: { viewport }, canvas, place, look } = this;
    if (!viewport || !look) return;
    const size = viewport.getContainerSize(), ratio = devicePixelRatio, pen = canvas.getContext("2d");
    [canvas.width, canvas.height] = [Math.round(size.x * ratio), Math.round(size.y * ratio)];
    const corner = viewport.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0)).times(ratio);
    const zoom = viewport.viewportToImageZoom(viewport.getZoom(true)) * ratio; // device pixels a pixel of level 0
    const [across, down] = place.step_px.map((step) => step * zoom); // of a cell
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = look.opacity;
    pen.save();
    pen.beginPath();
    pen.rect(corner.x, corner.y, across * place.columns, down * place.rows);
    pen.clip(); // the last pixel of a coarse level reaches beyond the cells
    const fitting = Math.ceil(Math.log2(Math.max(place.columns, place.rows) / place.tile));
    const coarsest = Math.max(0, place.max_level - Math.max(0, fitting)); // the finest level of one tile
    const coarser = Math.max(0, Math.floor(-Math.log2(Math.min(across, down))));
    const finest = Math.max(coarsest, place.max_level - coarser);
    this.wanted = [];
    for (const level of new Set([coarsest, finest])) this.drawLevel(pen, level, corner, across, down);
    pen.restore();
    if (look.outlines) {
      pen.setTransform(zoom, 0, 0, zoom, corner.x, corner.y);
      pen.globalAlpha = 1;
      pen.lineJoin = "round";
      const thinner = Math.min(1, Math.max(across, down) / ratio / THICK_FROM_PX);
      for (const [colour, width] of STROKES) {
        pen.strokeStyle = colour;
        pen.lineWidth = (width * thinner * ratio) / zoom;
        pen.stroke(look.outlines);
      }
    }
    this.viewer.element.setAttribute("aria-busy", String(this.wanted.length > 0));
    this.load();
  }

  drawLevel(pen, level, corner, across, down) {
    const { place, canvas } = this, cells = 2 ** (place.max_level - level); // along a pixel of this level
    const width = across * cells * place.tile, height = down * cells * place.tile; // of a tile
    const last = (count, extent, from, side) => Math.min(Math.ceil(count / cells / place.tile), Math.ceil((extent - from) / side)) - 1;
    for (let row = Math.max(0, Math.floor(-corner.y / height)); row <= last(place.rows, canvas.height, corner.y, height); row++)
      for (let column = Math.max(0, Math.floor(-corner.x / width)); column <= last(place.columns, canvas.width, corner.x, width); column++) {
        const name = `${this.look.layer}/${level}/${column}_${row}`, tile = this.tiles.get(name);
        if (tile === undefined) this.wanted.push(name);
        if (!tile) continue;
        this.tiles.delete(name); // and behind the others: those that were used longest ago go first
        this.tiles.set(name, tile);
        const left = Math.round(corner.x + column * width), top = Math.round(corner.y + row * height);
        const right = Math.round(corner.x + column * width + across * cells * tile.width);
        const bottom = Math.round(corner.y + row * height + down * cells * tile.height);
        pen.clearRect(left, top, right - left, bottom - top); // what a coarser level said of the place
        pen.drawImage(this.painted(tile), left, top, right - left, bottom - top);
      }
  }

  painted(tile) {
    if (tile.table !== this.table) {
      const pixels = new Uint32Array(tile.image.data.buffer);
      for (let k = 0; k < pixels.length; k++) pixels[k] = this.table[tile.grey[k]];
      tile.canvas.getContext("2d").putImageData(tile.image, 0, 0);
      tile.table = this.table;
    }
    return tile.canvas;
  }

  // Ask for what is in view and not there; what has left the view before its turn is not asked for.
  load() {
    for (const name of this.wanted) {
      if (this.loading.size >= AT_ONCE) return;
      if (this.loading.has(name)) continue;
      this.loading.add(name);
      this.read(name).catch(() => null).then((tile) => {
        this.loading.delete(name);
        this.tiles.set(name, tile);
        for (const oldest of this.tiles.keys()) {
          if (this.tiles.size <= MOST_KEPT) break;
          this.tiles.delete(oldest);
        }
        this.draw();
      });
    }
  }

  async read(name) {
    const answer = await fetched(`${this.path}/${name}.png`);
    const bitmap = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" }), { width, height } = bitmap;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(bitmap, 0, 0);
    const image = pen.getImageData(0, 0, width, height);
    return { canvas, image, width, height, grey: Uint8Array.from({ length: width * height }, (_, k) => image.data[4 * k]), table: null };
  }

  remove() {
    this.look = null; // what is still on its way is not drawn
    this.viewer.removeHandler("update-viewport", this.redraw);
    this.canvas.remove();
  }
}
