/** Who is in the photo: a box around each face, with the name or that nobody is known by it. */

import { callJson, segment } from "./api.js";
import { BoxView } from "./boxes.js";
import { Colours } from "./colours.js";
import { button, byId, count, make } from "./dom.js";
import { chosen } from "./photo.js";
import { PhotoTab } from "./photo_tab.js";

const UNKNOWN = "#ffffff";
const CANDIDATES = 3;

/**
 * A face that was picked, among all of its photo.
 * @typedef {{photo: import("./photo.js").Photo, faces: any[], at: number}} Picked
 */

/** The photo with its faces. */
export class Recognise {
  /**
   * @param {{gallery: () => string, onPick: (picked: Picked | null) => void}} parts name of the gallery, "" only looks
   *   for faces; and who is told of the face that was picked (null: of another photo, or none)
   */
  constructor({ gallery, onPick }) {
    this.onPick = onPick;
    this.gallery = gallery;
    this.colours = new Colours();
    this.rows = byId("recognise-rows");
    this.view = new BoxView(byId("recognise-view"), {
      onHover: (at) => this.rows.childNodes.forEach((row, other) => row.classList.toggle("lit", other === at)),
      onPick: (at) => this.#pick(at),
    });
    /** @type {{photo: import("./photo.js").Photo, faces: any[]} | null} */
    this.found = null;
    this.tab = new PhotoTab("recognise", {
      words: "Looking for faces …",
      ask: (photo, means) => this.#ask(photo, means),
      render: ({ faces, gallery }, photo) => this.#render(faces, gallery, photo),
      clear: () => {
        this.found = null;
        this.onPick(null);
      },
    });
  }

  show() {
    this.tab.show();
  }

  hide() {
    this.tab.hide();
  }

  /** Somebody came or went: look again, if the photo is looked at. */
  again() {
    if (this.tab.shown && chosen.current) this.tab.run();
    else this.tab.asked = null;
  }

  async #ask(photo, { signal, onWait }) {
    const gallery = this.gallery();
    const answer = gallery
      ? await callJson("POST", `v1/galleries/${segment(gallery)}/recognize`, {
          query: { candidates: CANDIDATES },
          body: photo.blob,
          signal,
          onWait,
          endpoint: "POST /v1/galleries/…/recognize",
        })
      : await callJson("POST", "v1/faces/detect", { body: photo.blob, signal, onWait });
    if (!this.found || this.found.photo !== photo) await this.view.show(photo);
    return { faces: answer.images[0].faces, gallery };
  }

  #render(faces, gallery, photo) {
    this.found = { photo, faces };
    const known = faces.filter(({ identity }) => identity).map(({ identity }) => identity.name);
    const said = known.length ? `${known.join(", ")} recognised.` : gallery ? "Nobody known here." : "";
    const more = faces.length ? said : "A face must be at least 40 px wide.";
    byId("recognise-said").textContent = `${count(faces.length, "face")} found. ${more}`;
    this.view.setBoxes(
      faces.map((face) => ({ box: face.box, text: nameOf(face), colour: this.#colour(face), dashed: !face.identity })),
      `The photo with boxes around ${count(faces.length, "face")}: ${faces.map(nameOf).join(", ")}`,
    );
    this.rows.replaceChildren(...faces.map((face, at) => this.#row(face, at, Boolean(gallery))));
    byId("recognise-table").hidden = !faces.length;
  }

  #row(face, at, pickable) {
    const light = (to) => () => this.view.light(to);
    const mark = make("span", { class: "swatch", "aria-hidden": "true" });
    mark.style.setProperty("--colour", this.#colour(face));
    const action = button("Enrol", () => this.#pick(at), {
      "aria-label": `Enrol face ${at + 1}, ${nameOf(face)}`,
      on: { focus: light(at), blur: light(-1) },
    });
    return make(
      "tr",
      { on: { pointerenter: light(at), pointerleave: light(-1) } },
      make("th", { scope: "row" }, mark, nameOf(face)),
      make("td", {}, wordsOf(face)),
      make("td", {}, pickable ? action : null),
    );
  }

  #colour(face) {
    return face.identity ? this.colours.of(face.identity.id) : UNKNOWN;
  }

  #pick(at) {
    if (this.found && this.gallery()) this.onPick({ ...this.found, at });
  }
}

/** @param {any} face */
function nameOf(face) {
  if (face.identity) return face.identity.name;
  return { unknown: "unknown", ambiguous: "undecided" }[face.decision] ?? "face";
}

/**
 * How sure it is, in words.
 * @param {any} face
 * @returns {string}
 */
function wordsOf(face) {
  if (face.decision === undefined) return `${Math.round(face.quality.size)} px`;
  const [score, threshold] = [face.score.toFixed(2), face.threshold.toFixed(2)];
  if (face.decision === "identified") return `score ${score}, from ${threshold} on it counts`;
  if (face.decision === "ambiguous") return `score ${score} with several people alike`;
  if (!face.candidates.length) return "nobody to compare with";
  return `most like ${face.candidates[0].name}: score ${score}, ${threshold} needed`;
}
