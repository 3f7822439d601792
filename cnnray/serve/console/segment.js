/** Segment: the classes of the pixels as colours over the photo. */

import { callPicture } from "./api.js";
import { bar } from "./classify.js";
import { hex, rgb } from "./colours.js";
import { byId, percent } from "./dom.js";
import { PhotoTab } from "./photo_tab.js";

/**
 * Make the tab work.
 * @returns {{onShow: () => void, onHide: () => void}}
 */
export function initSegment() {
  const [canvas, slider, image] = ["segment-overlay", "segment-opacity", "segment-photo"].map(byId);
  const fade = () => {
    canvas.style.opacity = slider.value;
    byId("segment-share").textContent = percent(Number(slider.value));
  };
  slider.addEventListener("input", fade);
  fade();

  const tab = new PhotoTab("segment", {
    words: "Colouring the parts …",
    ask: async (photo, { signal, onWait }) => {
      const { blob, headers } = await callPicture("POST", "v1/segment", { body: photo.blob, signal, onWait });
      const figures = JSON.parse(headers.get("x-segmentation") ?? "{}");
      if (figures.classes.every(({ value }) => value < 256)) {
        return { figures, colours: await coloured(blob, figures.classes) };
      }
      // a browser reads 16 bits as 8, which would mix classes up: let the service colour
      const query = { draw: true };
      const drawn = await callPicture("POST", "v1/segment", { query, body: photo.blob, signal, onWait });
      return { figures, colours: await createImageBitmap(drawn.blob) };
    },
    render: ({ figures, colours }, photo) => {
      image.src = photo.url;
      Object.assign(canvas, { width: figures.width, height: figures.height });
      canvas.getContext("2d").drawImage(colours, 0, 0);
      colours.close();
      const shares = figures.classes.map((part, at) => ({ ...part, colour: at ? hex(at - 1) : "transparent" }));
      const [background, ...others] = shares;
      const found = others.filter(({ share }) => share > 0).sort((a, b) => b.share - a.share);
      const bars = [...found, background].map(({ label, share, colour }) => bar(label, share, colour));
      byId("segment-legend").replaceChildren(...bars);
      const named = found.map(({ label, share }) => `${label} ${percent(share)}`).join(", ");
      const words = named || `nothing but ${background.label}`;
      canvas.setAttribute("aria-label", `The photo's parts in colour: ${words}`);
      byId("segment-said").textContent = `Found ${words}. On average ${percent(figures.confidence)} sure of a pixel.`;
    },
    clear: () => image.removeAttribute("src"),
  });
  return { onShow: () => tab.show(), onHide: () => tab.hide() };
}

/**
 * The map of classes in colour; the first class, the background, is clear.
 * @param {Blob} file a PNG whose grey values are those of the classes
 * @param {{value: number}[]} classes
 * @returns {Promise<ImageBitmap>}
 */
async function coloured(file, classes) {
  // as they are in the file: a colour profile would shift them
  const map = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(map.width, map.height);
  const pen = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  pen.drawImage(map, 0, 0);
  map.close();
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height);
  const table = new Uint8ClampedArray(4 * 256);
  classes.forEach(({ value }, at) => at && table.set([...rgb(at - 1), 255], 4 * value));
  for (let at = 0; at < pixels.data.length; at += 4) {
    const from = 4 * pixels.data[at];
    for (let part = 0; part < 4; part += 1) pixels.data[at + part] = table[from + part];
  }
  pen.putImageData(pixels, 0, 0);
  return createImageBitmap(canvas);
}
