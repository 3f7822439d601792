/** Work that a person asked for: one piece at a time in its place, with words about how it goes. */

import { Problem } from "./api.js";
import { make } from "./dom.js";

/**
 * What a piece of work is given.
 * @typedef {{signal: AbortSignal, onWait: (text: string) => void}} Means
 */

/** A place where one piece of work is done at a time: a newer one ends the older, whose answer is never shown. */
export class Work {
  /**
   * @param {HTMLElement} place where its words go; it has a `.status` and an `.error`, both live regions
   */
  constructor(place) {
    this.status = /** @type {HTMLElement} */ (place.querySelector(".status"));
    this.error = /** @type {HTMLElement} */ (place.querySelector(".error"));
    /** @type {AbortController | null} */
    this.current = null;
  }

  /**
   * Do it, and say so.
   * @template T
   * @param {string} words while it lasts
   * @param {(means: Means) => Promise<T>} job
   * @param {(problem: Problem) => (Node | null)} [offer] what to show below an error, a button say
   * @returns {Promise<T | undefined>} undefined where it failed, which is shown, or where something newer came
   */
  async run(words, job, offer) {
    this.current?.abort();
    const mine = (this.current = new AbortController());
    const onWait = (text) => {
      if (this.current === mine) this.say(text || words, true);
    };
    this.clearError();
    this.say(words, true);
    try {
      const result = await job({ signal: mine.signal, onWait });
      if (this.current !== mine) return undefined;
      this.say("");
      this.current = null;
      return result;
    } catch (error) {
      if (this.current !== mine) return undefined;
      this.say("");
      this.current = null;
      this.fail(error, offer);
      return undefined;
    }
  }

  /** Whether something is being done. */
  get busy() {
    return this.current !== null;
  }

  /** End what is being done, and take its words away. */
  cancel() {
    this.current?.abort();
    this.current = null;
    this.say("");
    this.clearError();
  }

  /**
   * @param {string} text
   * @param {boolean} [busy] whether a turning mark goes with it
   */
  say(text, busy = false) {
    this.status.textContent = text;
    this.status.classList.toggle("busy", busy);
  }

  clearError() {
    this.error.replaceChildren();
  }

  /**
   * Show what went wrong.
   * @param {any} error
   * @param {(problem: Problem) => (Node | null)} [offer] as of `run`
   */
  fail(error, offer) {
    if (!(error instanceof Problem)) {
      // a fault of this page, or of the browser: the person sees that, the console the rest
      console.error(error);
      this.error.replaceChildren(make("p", {}, "This page failed. Reload it, then try again."));
      return;
    }
    this.error.replaceChildren(make("p", {}, error.message));
    const more = offer?.(error);
    if (more) this.error.append(more);
    if (error.requestId) this.error.append(make("p", { class: "small" }, `Request ${error.requestId}`));
  }
}
