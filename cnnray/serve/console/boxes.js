/** A photo with boxes on a canvas, sharp on every screen, whose boxes can be pointed at. */

import { inkOn } from "./colours.js";
import { make } from "./dom.js";

const LARGEST_SHARE = 0.7; // of the window's height
const FONT = 13; // px

/**
 * @typedef {object} Box
 * @property {number[]} box left, top, right and bottom in px of the photo
 * @property {string} text
 * @property {string} colour
 * @property {boolean} [dashed]
 */

/** A canvas in a place of the page. */
export class BoxView {
  /**
   * @param {HTMLElement} place that it fills
   * @param {{onHover?: (at: number) => void, onPick?: (at: number) => void}} [options] told of the box that is pointed
   *   at (-1: none), and that was clicked
   */
  constructor(place, { onHover, onPick } = {}) {
    this.place = place;
    this.canvas = make("canvas", { role: "img", "aria-label": "The photo" });
    place.append(this.canvas);
    /** @type {HTMLImageElement | null} */
    this.image = null;
    /** @type {Box[]} */
    this.boxes = [];
    this.lit = -1;
    this.drawnFor = 0; // px of the place's width
    // not at once: what it draws changes the height of the place, which would be a loop to the observer
    const fit = () => this.place.clientWidth !== this.drawnFor && this.draw();
    new ResizeObserver(() => requestAnimationFrame(fit)).observe(place);
    this.canvas.addEventListener("pointermove", (event) => {
      const at = this.#at(event);
      if (at === this.lit) return;
      this.light(at);
      onHover?.(at);
    });
    this.canvas.addEventListener("pointerleave", () => {
      this.light(-1);
      onHover?.(-1);
    });
    this.canvas.addEventListener("click", (event) => {
      const at = this.#at(event);
      if (at >= 0) onPick?.(at);
    });
  }

  /**
   * Show a photo; boxes of another one go.
   * @param {{url: string}} photo
   */
  async show(photo) {
    const image = new Image();
    this.wanted = image;
    image.src = photo.url;
    await image.decode().catch(() => {}); // of a photo that another one has replaced meanwhile
    if (this.wanted !== image || !image.naturalWidth) return;
    this.image = image;
    this.boxes = [];
    this.lit = -1;
    this.draw();
  }

  /**
   * Draw these boxes, the first on top.
   * @param {Box[]} boxes
   * @param {string} words what the picture shows, for who does not see it
   */
  setBoxes(boxes, words) {
    this.boxes = boxes;
    this.lit = -1;
    this.canvas.setAttribute("aria-label", words);
    this.draw();
  }

  /** Let a box stand out; -1: none. @param {number} at */
  light(at) {
    this.lit = at;
    this.draw();
  }

  draw() {
    this.drawnFor = this.image ? this.place.clientWidth : 0;
    if (!this.image || !this.drawnFor) return; // in a tab that is not shown: the observer tells when it is
    const { naturalWidth, naturalHeight } = this.image;
    const most = Math.min(this.drawnFor, (innerHeight * LARGEST_SHARE * naturalWidth) / naturalHeight);
    // small photos are shown larger, but not so that they are nothing but blur
    const width = Math.round(Math.min(most, Math.max(4 * naturalWidth, 320)));
    const height = Math.round((width * naturalHeight) / naturalWidth);
    const ratio = devicePixelRatio || 1;
    this.scale = width / naturalWidth;
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    Object.assign(this.canvas.style, { width: `${width}px`, height: `${height}px` });
    const pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    pen.scale(ratio, ratio);
    pen.drawImage(this.image, 0, 0, width, height);
    const lit = this.boxes[this.lit];
    for (const box of [...this.boxes].reverse()) if (box !== lit) this.#frame(pen, box, false, width);
    if (lit) this.#frame(pen, lit, true, width);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Box} box
   * @param {boolean} lit
   * @param {number} width of the canvas
   */
  #frame(pen, { box, text, colour, dashed }, lit, width) {
    const [left, top, right, bottom] = box.map((value) => value * this.scale);
    pen.globalAlpha = this.lit >= 0 && !lit ? 0.35 : 1;
    if (lit) {
      pen.fillStyle = `${colour}40`;
      pen.fillRect(left, top, right - left, bottom - top);
    }
    pen.setLineDash([]);
    pen.lineWidth = lit ? 6 : 4; // dark below the colour, to be seen on any photo
    pen.strokeStyle = "#000a";
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.setLineDash(dashed ? [6, 4] : []);
    pen.lineWidth = lit ? 4 : 2;
    pen.strokeStyle = colour;
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.font = `600 ${FONT}px system-ui, sans-serif`;
    const wide = pen.measureText(text).width + 10;
    const x = Math.max(0, Math.min(left - 1, width - wide));
    const y = top >= FONT + 8 ? top - FONT - 8 : top;
    pen.fillStyle = colour;
    pen.fillRect(x, y, wide, FONT + 8);
    pen.fillStyle = inkOn(colour);
    pen.fillText(text, x + 5, y + FONT + 2);
    pen.globalAlpha = 1;
  }

  /**
   * The smallest box at a place, since it may lie inside a larger one.
   * @param {MouseEvent} event
   * @returns {number} -1: none
   */
  #at(event) {
    const [x, y] = [event.offsetX / this.scale, event.offsetY / this.scale];
    let [found, smallest] = [-1, Infinity];
    this.boxes.forEach(({ box: [left, top, right, bottom] }, at) => {
      const area = (right - left) * (bottom - top);
      if (x >= left && x <= right && y >= top && y <= bottom && area < smallest) [found, smallest] = [at, area];
    });
    return found;
  }
}
