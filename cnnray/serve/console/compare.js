/** Two pictures over each other, with a slider between before and after, and the second to download. */

import { make, percent } from "./dom.js";

/** In a place of the page. */
export class Compare {
  /**
   * @param {HTMLElement} place
   * @param {HTMLAnchorElement} link that saves the second picture
   */
  constructor(place, link) {
    this.place = place;
    this.link = link;
    this.before = make("img", { class: "before", alt: "Before: the photo" });
    this.after = make("img", { class: "after", alt: "After: the painting" });
    const label = "How much of the painting is shown";
    this.slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": label });
    place.append(make("div", { class: "pair" }, this.before, this.after), this.slider);
    this.slider.addEventListener("input", () => this.#cut());
    this.url = "";
    this.#cut();
  }

  /**
   * @param {string} before a URL
   * @param {Blob} after
   * @param {string} name of the file to save
   */
  show(before, after, name) {
    this.clear();
    this.url = URL.createObjectURL(after);
    this.before.src = before;
    this.after.src = this.url;
    Object.assign(this.link, { href: this.url, download: name });
  }

  clear() {
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = "";
    this.link.removeAttribute("href");
    this.before.removeAttribute("src");
    this.after.removeAttribute("src");
  }

  #cut() {
    this.place.style.setProperty("--cut", `${this.slider.value}%`);
    this.slider.setAttribute("aria-valuetext", `${percent(Number(this.slider.value) / 100)} painting`);
  }
}
