/** What tabs have in common that ask about the chosen photo and show the answer. */

import { byId } from "./dom.js";
import { keyEvents } from "./key.js";
import { chosen } from "./photo.js";
import { Work } from "./work.js";

const PATIENCE = 300; // ms that a tab is looked at before it asks: arrows pass by many

/** @typedef {import("./photo.js").Photo} Photo */

/**
 * @template T
 * @typedef {object} Parts
 * @property {string} words while it asks
 * @property {(photo: Photo, means: import("./work.js").Means) => Promise<T>} ask
 * @property {(answer: T, photo: Photo) => void} render
 * @property {() => void} [clear] forget the answer
 */

/**
 * A panel `ID` with a button `ID-run`, a place `ID-result`, and words in `ID-work`.
 *
 * It asks by itself when it is shown with a photo that it has not asked about. An answer about an older photo is never
 * shown: another photo ends the request and takes the answer away.
 * @template T
 */
export class PhotoTab {
  /**
   * @param {string} id
   * @param {Parts<T>} parts
   */
  constructor(id, parts) {
    this.parts = parts;
    this.work = new Work(byId(`${id}-work`));
    this.result = byId(`${id}-result`);
    this.result.hidden = true;
    this.shown = false;
    /** @type {Photo | null} */
    this.asked = null;
    this.timer = 0;
    byId(`${id}-run`).addEventListener("click", () => this.run());
    chosen.addEventListener("change", () => {
      this.forget();
      if (this.shown) this.run();
    });
    keyEvents.addEventListener("change", () => {
      if (this.result.hidden) this.asked = null; // what one key may not ask another may
    });
  }

  /** Its tab is looked at. */
  show() {
    this.shown = true;
    this.timer = setTimeout(() => {
      if (chosen.current && this.asked !== chosen.current) this.run();
    }, PATIENCE);
  }

  /** Its tab is left; what was asked may still come. */
  hide() {
    this.shown = false;
    clearTimeout(this.timer);
  }

  /** Take the answer away, and end a request for it. */
  forget() {
    clearTimeout(this.timer);
    this.work.cancel();
    this.asked = null;
    this.result.hidden = true;
    this.parts.clear?.();
  }

  /** Ask about the photo, also once more. */
  async run() {
    const photo = chosen.current;
    if (!photo) {
      this.work.clearError();
      this.work.say("Choose a photo first: drop it anywhere on this page, paste it, or press “Choose a photo”.");
      return;
    }
    clearTimeout(this.timer);
    this.asked = photo;
    const answer = await this.work.run(this.parts.words, (means) => this.parts.ask(photo, means));
    if (answer === undefined) return;
    this.result.hidden = false;
    this.parts.render(answer, photo);
  }
}
