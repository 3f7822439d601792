/** Why a classifier answers as it does: pictures of what in the photo speaks for a class. */

import { callJson } from "./api.js";
import { byId, make, percent } from "./dom.js";
import { Work } from "./work.js";

/** The part below the bars. */
export class Why {
  constructor() {
    this.work = new Work(byId("why-work"));
    this.label = byId("why-label");
    /** @type {import("./photo.js").Photo | null} */
    this.photo = null;
    byId("why-run").addEventListener("click", () => this.ask());
  }

  /**
   * Let a class be chosen.
   * @param {import("./photo.js").Photo} photo
   * @param {{label: string, probability: number}[]} top
   */
  offer(photo, top) {
    this.clear();
    this.photo = photo;
    this.label.replaceChildren(
      ...top.map(({ label, probability }) => make("option", { value: label }, `${label} (${percent(probability)})`)),
    );
  }

  /** Forget the photo and its pictures. */
  clear() {
    this.work.cancel();
    this.photo = null;
    byId("why-pictures").replaceChildren();
    byId("why-said").textContent = "";
  }

  async ask() {
    const photo = this.photo;
    if (!photo) return;
    const query = { top_k: 1, explain: true, explain_label: this.label.value };
    const answer = await this.work.run("Finding out what speaks for it …", ({ signal, onWait }) =>
      callJson("POST", "v1/classify", { query, body: photo.blob, signal, onWait, endpoint: "POST /v1/classify, why" }),
    );
    if (answer) show(answer.explanation);
  }
}

/** @param {any} found an explanation as the service gives it */
function show(found) {
  const { label } = found;
  const pictures = [
    ["image/jpeg", found.overlay, `The bright places speak most for “${label}”.`],
    ["image/png", found.heat, "The same without the photo: white speaks most, black not at all."],
    ["image/png", found.guided, `The pixels that speak for “${label}”: lighter than grey for it, darker against.`],
  ];
  byId("why-pictures").replaceChildren(
    ...pictures.filter(([, content]) => content).map(([kind, content, caption]) =>
      make(
        "figure",
        {},
        make("img", { src: `data:${kind};base64,${content}`, alt: caption }),
        make("figcaption", {}, caption),
      ),
    ),
  );
  const [left, top, right, bottom] = found.seen;
  const partly = right - left < found.width - 1 || bottom - top < found.height - 1;
  const size = `${Math.round(right - left)} × ${Math.round(bottom - top)} px`;
  const looked = `The network looked at ${size} in the middle of the photo.`;
  const parts = [`${label}: ${percent(found.probability)}.`, partly && looked, found.note && `${found.note}.`];
  byId("why-said").textContent = parts.filter(Boolean).join(" ");
}
