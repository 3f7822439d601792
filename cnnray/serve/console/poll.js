/** Looks again and again at something that goes on by itself, the more seldom the less happens. */

const SOON = 1000; // ms
const SELDOM = 10_000;
const SLOWER = 1.5;

/** A look that is repeated while this page and its tab are seen. */
export class Poll {
  /**
   * @param {(signal: AbortSignal) => Promise<{moved: boolean} | null>} look whether something has changed; null where
   *   nothing more will
   * @param {(error: any) => void} onError told of each; one that lies with this page's own request ends it
   */
  constructor(look, onError) {
    this.look = look;
    this.onError = onError;
    this.wanted = false;
    this.timer = 0;
    /** @type {AbortController | null} */
    this.current = null;
    document.addEventListener("visibilitychange", () => {
      if (!this.wanted) return;
      if (document.hidden) this.#pause();
      else this.start();
    });
  }

  /** Look now, and go on. */
  start() {
    this.wanted = true;
    this.#pause();
    if (!document.hidden) this.#run(SOON);
  }

  /** Look no more. */
  stop() {
    this.wanted = false;
    this.#pause();
  }

  #pause() {
    clearTimeout(this.timer);
    this.current?.abort();
    this.current = null;
  }

  /** @param {number} wait until the next look, ms */
  async #run(wait) {
    const mine = (this.current = new AbortController());
    try {
      const found = await this.look(mine.signal);
      if (this.current !== mine || !found) return;
      const next = found.moved ? SOON : Math.min(SELDOM, wait * SLOWER);
      this.timer = setTimeout(() => this.#run(next), next);
    } catch (error) {
      if (this.current !== mine) return;
      this.onError(error);
      if (!(error.status >= 400 && error.status < 500)) this.timer = setTimeout(() => this.#run(SELDOM), SELDOM);
    }
  }
}
