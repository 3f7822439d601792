/** Classify: the most probable classes as bars. */

import { callJson } from "./api.js";
import { byId, make, percent } from "./dom.js";
import { PhotoTab } from "./photo_tab.js";
import { Why } from "./why.js";

const SHOWN = 5;
const ASKED = 100; // classes to choose from for "Why?"

/**
 * Make the tab work.
 * @returns {{onShow: () => void, onHide: () => void}}
 */
export function initClassify() {
  const why = new Why();
  const tab = new PhotoTab("classify", {
    words: "Looking at the photo …",
    ask: (photo, { signal, onWait }) =>
      callJson("POST", "v1/classify", { query: { top_k: ASKED }, body: photo.blob, signal, onWait }),
    render: (answer, photo) => {
      showBars(answer.top);
      byId("classify-said").textContent = `${answer.label}, ${percent(answer.probability)} sure.`;
      why.offer(photo, answer.top);
    },
    clear: () => why.clear(),
  });
  return { onShow: () => tab.show(), onHide: () => tab.hide() };
}

/** @param {{label: string, probability: number}[]} top */
function showBars(top) {
  const bars = top.slice(0, SHOWN).map(({ label, probability }) => bar(label, probability));
  byId("classify-bars").replaceChildren(...bars);
}

/**
 * A line with a name, a share and a bar.
 * @param {string} name
 * @param {number} share from 0 to 1
 * @param {string} [colour] of the bar
 * @returns {HTMLLIElement}
 */
export function bar(name, share, colour) {
  const fill = make("span", { class: "fill" });
  fill.style.setProperty("--share", `${100 * share}%`);
  if (colour) fill.style.setProperty("--colour", colour);
  return make(
    "li",
    {},
    make("span", { class: "name" }, name),
    make("span", { class: "value" }, percent(share)),
    make("span", { class: "track", "aria-hidden": "true" }, fill),
  );
}
