/** The painting that is looked at while it is made, and when it is done. */

import { callPicture, Problem, segment } from "./api.js";
import { byId } from "./dom.js";

const PATH = "v1/stylize/jobs";

/** One job's picture: its newest preview, then the finished painting. */
export class JobView {
  constructor() {
    [this.place, this.image, this.link, this.said] = ["job", "job-picture", "job-download", "job-said"].map(byId);
    this.forget();
  }

  /** Look at a job. @param {string} id */
  choose(id) {
    this.forget();
    this.id = id;
  }

  /** It was deleted. @param {string} id */
  drop(id) {
    if (id === this.id) this.forget();
  }

  forget() {
    if (this.url) URL.revokeObjectURL(this.url);
    Object.assign(this, { id: "", url: "", seen: "" });
    this.place.hidden = true;
    this.image.removeAttribute("src");
    this.link.removeAttribute("href");
  }

  /**
   * Fetch its picture where that has changed.
   * @param {any[]} jobs as they are now
   * @param {AbortSignal} signal
   */
  async follow(jobs, signal) {
    const job = jobs.find(({ id }) => id === this.id);
    if (!job) return;
    const state = `${job.state} ${job.step}`;
    if (state === this.seen || !job.step) return;
    const what = job.state === "done" ? "picture" : "preview";
    const found = await this.#fetch(job.id, what, signal);
    if (!found || this.id !== job.id) return; // there is none yet, or another one is looked at now
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(found.blob);
    this.seen = state;
    this.image.src = this.url;
    const done = job.state === "done";
    this.image.alt = done ? "The finished painting" : `The painting after ${job.step} of ${job.steps} steps`;
    this.said.textContent = `${this.image.alt}, ${job.width} × ${job.height} px.`;
    this.link.hidden = !done;
    if (done) Object.assign(this.link, { href: this.url, download: "painting.png" });
    this.place.hidden = false;
  }

  /**
   * @param {string} id
   * @param {string} what
   * @param {AbortSignal} signal
   * @returns {Promise<{blob: Blob} | null>}
   */
  async #fetch(id, what, signal) {
    try {
      const endpoint = `GET /${PATH}/…/${what}`;
      return await callPicture("GET", `${PATH}/${segment(id)}/${what}`, { signal, endpoint });
    } catch (error) {
      if (error instanceof Problem && ["not_finished", "no_job"].includes(error.code)) return null;
      throw error;
    }
  }
}
