/** The photo that all tabs work on: one at a time, made small enough to send. */

const LONGEST_SIDE = 2048; // px
const MOST_BYTES = 4 * 2 ** 20;
const SENT_AS_IT_IS = new Set(["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp"]);

/**
 * @typedef {object} Photo
 * @property {string} name of its file
 * @property {Blob} blob as it is sent
 * @property {string} url of the blob, for this page
 * @property {number} width px, upright
 * @property {number} height
 * @property {string} note what was changed for sending, "" where nothing was
 */

/** A file that is no picture to this browser; its message is for a person. */
export class NotAPicture extends Error {}

/**
 * A file as it is sent: as it is, or redrawn where it is too large or of a kind that the service does not read.
 *
 * The browser turns the picture upright by its EXIF data in both cases: when it shows the file, and when it redraws it.
 * @param {Blob} file
 * @param {string} name
 * @returns {Promise<Photo>}
 * @throws {NotAPicture}
 */
export async function preparePhoto(file, name) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw new NotAPicture(`This browser cannot open “${name}” as a picture. Choose a JPEG, PNG or WebP file.`);
  });
  try {
    const { width, height } = bitmap;
    const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
    if (scale === 1 && file.size <= MOST_BYTES && SENT_AS_IT_IS.has(file.type)) {
      return { name, blob: file, url: URL.createObjectURL(file), width, height, note: "" };
    }
    const canvas = draw(bitmap, Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
    const blob = await toJpeg(canvas);
    const note = scale < 1 ? `made smaller from ${width} × ${height} px for sending` : "packed as JPEG for sending";
    return { name, blob, url: URL.createObjectURL(blob), width: canvas.width, height: canvas.height, note };
  } finally {
    bitmap.close();
  }
}

/**
 * A part of a photo as a file.
 * @param {Photo} photo
 * @param {number[]} box left, top, right and bottom in px
 * @returns {Promise<Blob>}
 */
export async function cropPhoto(photo, [left, top, right, bottom]) {
  const bitmap = await createImageBitmap(photo.blob, { imageOrientation: "from-image" });
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(right - left));
  canvas.height = Math.max(1, Math.round(bottom - top));
  context(canvas).drawImage(bitmap, -Math.round(left), -Math.round(top));
  bitmap.close();
  return toJpeg(canvas);
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number} width
 * @param {number} height
 * @returns {HTMLCanvasElement}
 */
function draw(bitmap, width, height) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const pen = context(canvas);
  pen.imageSmoothingQuality = "high";
  pen.fillStyle = "#fff"; // behind what is transparent, which JPEG would make black
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {CanvasRenderingContext2D}
 */
function context(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
}

/**
 * @param {HTMLCanvasElement} canvas
 * @returns {Promise<Blob>}
 */
function toJpeg(canvas) {
  return new Promise((resolve, reject) => {
    const done = (blob) => (blob ? resolve(blob) : reject(new NotAPicture("This browser cannot redraw the picture.")));
    canvas.toBlob(done, "image/jpeg", 0.95);
  });
}

/** The photo that is chosen now; tells of another one by the event "change". */
class ChosenPhoto extends EventTarget {
  /** @type {Photo | null} */
  current = null;
  #newest = 0;

  /**
   * Choose a file. Of several that are being opened the newest wins.
   * @param {Blob} file
   * @param {string} name
   * @returns {Promise<void>}
   * @throws {NotAPicture} the photo before it stays
   */
  async choose(file, name) {
    const mine = ++this.#newest;
    const photo = await preparePhoto(file, name).catch((error) => {
      if (mine === this.#newest) throw error;
      return null;
    });
    if (mine !== this.#newest) {
      if (photo) URL.revokeObjectURL(photo.url);
      return;
    }
    const before = this.current;
    this.current = photo;
    this.dispatchEvent(new Event("change"));
    if (before) URL.revokeObjectURL(before.url);
  }
}

export const chosen = new ChosenPhoto();
