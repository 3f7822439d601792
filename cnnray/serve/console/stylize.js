/** Stylize: the photo in a style that the service has learnt. */

import { callPicture, segment } from "./api.js";
import { Compare } from "./compare.js";
import { byId, make, percent } from "./dom.js";
import { keyEvents } from "./key.js";
import { listModels } from "./models.js";
import { PhotoTab } from "./photo_tab.js";
import { Work } from "./work.js";

/**
 * Make the part for learnt styles work.
 * @returns {{onShow: () => void, onHide: () => void}}
 */
export function initStylize() {
  const strength = byId("stylize-strength");
  const styles = new Styles(() => tab.run());
  const compare = new Compare(byId("stylize-compare"), byId("stylize-download"));
  const said = () => (byId("stylize-strength-said").textContent = percent(Number(strength.value)));
  strength.addEventListener("input", said);
  said();

  const tab = new PhotoTab("stylize", {
    words: "Painting …",
    ask: async (photo, { signal, onWait }) => {
      const query = { style: styles.chosen, strength: strength.value, keep_colors: byId("stylize-colors").checked };
      const { blob, headers } = await callPicture("POST", "v1/stylize", { query, body: photo.blob, signal, onWait });
      return { blob, style: styles.chosen, ...JSON.parse(headers.get("x-stylize") ?? "{}") };
    },
    render: ({ blob, style, width, height }, photo) => {
      compare.show(photo.url, blob, `${photo.name.replace(/\.[^.]*$/, "")}-${style}.jpg`);
      byId("stylize-said").textContent = `Painted as ${style.replaceAll("_", " ")}, ${width} × ${height} px.`;
    },
    clear: () => compare.clear(),
  });
  // let go of, not moved: each painting takes a while
  strength.addEventListener("change", () => tab.asked && tab.run());
  byId("stylize-colors").addEventListener("change", () => tab.asked && tab.run());

  return {
    onShow: async () => {
      await styles.load();
      if (styles.loaded && !byId("stylize").hidden) tab.show(); // it may have been left meanwhile
    },
    onHide: () => tab.hide(),
  };
}

/** The styles to choose from, each with a picture. */
class Styles {
  /** @param {() => void} onChoose */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.work = new Work(byId("styles-work"));
    this.place = byId("styles");
    this.chosen = "";
    this.loaded = false;
    keyEvents.addEventListener("change", () => (this.loaded = false));
  }

  /** Fill the list, where that has not been done. */
  async load() {
    if (this.loaded || this.work.busy) return;
    const models = await this.work.run("Fetching the styles …", ({ onWait }) => listModels({ onWait }));
    const names = models?.find(({ task }) => task === "stylize")?.styles;
    if (!names) return;
    this.loaded = true;
    this.chosen = names.includes(this.chosen) ? this.chosen : names[0];
    byId("stylize-run").disabled = false;
    const cards = names.map((name) => this.#card(name));
    this.place.replaceChildren(...cards.map(({ label }) => label));
    showPreviews(cards);
  }

  /** @param {string} name */
  #card(name) {
    const choose = () => {
      this.chosen = name;
      this.onChoose();
    };
    const image = make("img", { alt: "", width: 120, height: 120 });
    const checked = name === this.chosen;
    const radio = make("input", { type: "radio", name: "style", value: name, checked, on: { change: choose } });
    const words = make("span", {}, name.replaceAll("_", " "));
    return { name, image, label: make("label", { class: "style" }, radio, image, words) };
  }
}

/**
 * Fetch the pictures one by one: paintings go first, so none of these is in a hurry.
 *
 * A style without its picture can be chosen as well, so what fails here is not worth a word.
 * @param {{name: string, image: HTMLImageElement}[]} cards
 */
async function showPreviews(cards) {
  const endpoint = "GET /v1/stylize/styles/…";
  for (const { name, image } of cards) {
    const found = await callPicture("GET", `v1/stylize/styles/${segment(name)}`, { endpoint }).catch(() => null);
    if (!found) continue;
    const url = URL.createObjectURL(found.blob);
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  }
}
