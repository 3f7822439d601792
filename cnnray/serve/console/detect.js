/** Detect: asked once with a low threshold, so that the slider shows more or fewer boxes at once. */

import { callJson } from "./api.js";
import { BoxView } from "./boxes.js";
import { Colours } from "./colours.js";
import { button, byId, count, make, percent } from "./dom.js";
import { PhotoTab } from "./photo_tab.js";

const LEAST = 0.05; // the slider's lower end

/**
 * Make the tab work.
 * @returns {{onShow: () => void, onHide: () => void}}
 */
export function initDetect() {
  const [slider, rows] = [byId("detect-threshold"), byId("detect-rows")];
  const colours = new Colours();
  const light = (at) => rows.childNodes.forEach((row, other) => row.classList.toggle("lit", other === at));
  const pick = (at) => rows.children[at]?.querySelector("button").focus();
  const view = new BoxView(byId("detect-view"), { onHover: light, onPick: pick });
  /** @type {{label: string, score: number, box: number[]}[]} */
  let objects = [];

  const tab = new PhotoTab("detect", {
    words: "Looking for objects …",
    ask: async (photo, { signal, onWait }) => {
      const query = { confidence: LEAST };
      const answer = await callJson("POST", "v1/detect", { query, body: photo.blob, signal, onWait });
      await view.show(photo);
      return answer.images[0].objects;
    },
    render: (found) => {
      objects = found;
      filter();
    },
    clear: () => (objects = []),
  });
  slider.addEventListener("input", filter);

  function filter() {
    const least = Number(slider.value);
    byId("detect-least").textContent = percent(least);
    const shown = objects.filter(({ score }) => score >= least);
    const boxes = shown.map(boxOf);
    const counts = countLabels(shown);
    const words = [...counts].map(([label, number]) => `${number} × ${label}`).join(", ");
    view.setBoxes(boxes, `The photo with boxes around ${words || "nothing"}`);
    byId("detect-said").textContent = `${count(shown.length, "object")} of the ${objects.length} found.`;
    const chips = [...counts].map(([label, number]) => chip(colours.of(label), `${label} × ${number}`));
    byId("detect-legend").replaceChildren(...chips);
    rows.replaceChildren(...shown.map(row));
  }

  function boxOf({ label, score, box }) {
    return { box, text: `${label} ${percent(score)}`, colour: colours.of(label) };
  }

  function row({ label, score, box }, at) {
    const [left, top, right, bottom] = box.map(Math.round);
    const on = { focus: () => view.light(at), blur: () => view.light(-1) };
    const name = button(label, () => view.light(at), { class: "link", on });
    const mark = make("span", { class: "swatch", "aria-hidden": "true" });
    mark.style.setProperty("--colour", colours.of(label));
    return make(
      "tr",
      { on: { pointerenter: () => view.light(at), pointerleave: () => view.light(-1) } },
      make("th", { scope: "row" }, mark, name),
      make("td", { class: "n" }, percent(score)),
      make("td", { class: "n" }, `${left}, ${top}`),
      make("td", { class: "n" }, `${right - left} × ${bottom - top}`),
    );
  }

  return { onShow: () => tab.show(), onHide: () => tab.hide() };
}

/**
 * How many there are of each label, in the order of the first.
 * @param {{label: string}[]} objects
 * @returns {Map<string, number>}
 */
function countLabels(objects) {
  const counts = new Map();
  for (const { label } of objects) counts.set(label, (counts.get(label) ?? 0) + 1);
  return counts;
}

/**
 * A colour with its name.
 * @param {string} colour
 * @param {string} text
 * @returns {HTMLLIElement}
 */
export function chip(colour, text) {
  const mark = make("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.setProperty("--colour", colour);
  return make("li", {}, mark, text);
}
