/** Enrolling the face that was picked: as somebody new, or one more of somebody who is known. */

import { callJson, Problem, segment } from "./api.js";
import { button, byId, make, randomHex } from "./dom.js";
import { cropAround } from "./face_crop.js";
import { cropPhoto } from "./photo.js";
import { sayReason } from "./words.js";
import { Work } from "./work.js";

/** The form below the photo. */
export class Enrol {
  /** @param {() => void} onDone somebody was enrolled */
  constructor(onDone) {
    this.onDone = onDone;
    this.work = new Work(byId("enrol-work"));
    [this.form, this.name, this.id, this.whom] = ["enrol-form", "enrol-name", "enrol-id", "enrol-whom"].map(byId);
    /** @type {import("./recognise.js").Picked | null} */
    this.picked = null;
    this.gallery = "";
    this.overrides = {};
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#draft();
      this.#send();
    });
    this.form.addEventListener("change", () => this.#showKind());
    byId("enrol-close").addEventListener("click", () => this.close());
  }

  /**
   * Ask who this is.
   * @param {import("./recognise.js").Picked} picked
   * @param {string} gallery
   * @param {Map<string, string>} known names of people by id, those that are at hand
   */
  async open(picked, gallery, known) {
    Object.assign(this, { picked, gallery });
    this.work.cancel();
    const face = picked.faces[picked.at];
    const people = new Map([...(face.candidates ?? []).map(({ id, name }) => [id, name]), ...known]);
    byId("enrol-known").replaceChildren(...[...people].map(([id, name]) => make("option", { value: id }, name)));
    this.form.elements.kind.value = face.identity ? "known" : "new";
    Object.assign(this.name, { value: "" });
    this.id.value = "";
    this.whom.value = face.identity?.id ?? "";
    this.#showKind();
    this.form.hidden = false;
    this.form.scrollIntoView({ block: "nearest" });
    (face.identity ? this.whom : this.name).focus();
    this.#showFace(picked);
  }

  close() {
    this.work.cancel();
    this.picked = null;
    this.form.hidden = true;
    byId("enrol-face").replaceChildren();
  }

  async #showFace(picked) {
    const [left, top, right, bottom] = picked.faces[picked.at].box;
    const side = 96;
    const canvas = make("canvas", { width: side, height: side, role: "img", "aria-label": "The face to enrol" });
    byId("enrol-face").replaceChildren(canvas);
    const bitmap = await createImageBitmap(picked.photo.blob, { imageOrientation: "from-image" });
    const size = Math.max(right - left, bottom - top) * 1.3;
    const [x, y] = [(left + right - size) / 2, (top + bottom - size) / 2];
    canvas.getContext("2d").drawImage(bitmap, x, y, size, size, 0, 0, side, side);
    bitmap.close();
  }

  #showKind() {
    const isNew = this.form.elements.kind.value === "new";
    byId("enrol-new-part").hidden = !isNew;
    byId("enrol-known-part").hidden = isNew;
    this.name.required = isNew;
    this.whom.required = !isNew;
  }

  /** Who is to be enrolled, as the form says now; what was agreed to before was about somebody else. */
  #draft() {
    const isNew = this.form.elements.kind.value === "new";
    const typed = isNew ? this.id.value.trim() : this.whom.value.trim();
    const name = isNew ? this.name.value.trim() : "";
    this.overrides = {};
    // without an id from the person one that nobody else has
    this.draft = { isNew, typed: Boolean(typed), name, id: typed || `${slug(name)}-${randomHex(3)}` };
  }

  async #send() {
    const { picked, draft } = this;
    if (!picked) return;
    const done = await this.work.run(
      "Enrolling …",
      (means) => this.#enrol(picked, means),
      (problem) => this.#offer(problem),
    );
    if (!done) return;
    this.picked = null;
    this.form.hidden = true;
    const who = draft.name || draft.id;
    byId("enrol-work").focus(); // the form, where it was, has gone
    this.work.say(done.added ? `${who} is enrolled.` : `${who} had this very picture already.`);
    this.onDone();
  }

  /**
   * @param {import("./recognise.js").Picked} picked
   * @param {import("./work.js").Means} means
   */
  async #enrol({ photo, faces, at }, means) {
    const { isNew, typed, name, id } = this.draft;
    const path = `v1/galleries/${segment(this.gallery)}/identities/${segment(id)}`;
    if (typed) await this.#check(path, isNew, means);
    const alone = faces.length === 1;
    const boxes = faces.map(({ box }) => box);
    const body = alone ? photo.blob : await cropPhoto(photo, cropAround(boxes, at, photo.width, photo.height));
    return callJson("POST", `${path}/faces`, {
      query: { name: name || undefined, pick: alone ? "only" : "central", ...this.overrides },
      body,
      // a retry after a lost answer must not enrol twice
      headers: { "idempotency-key": randomHex(16) },
      endpoint: "POST /v1/galleries/…/faces",
      ...means,
    });
  }

  /** Enrolling takes any id: it would make somebody new by a slip, or give a stranger's face to somebody. */
  async #check(path, isNew, means) {
    const endpoint = "GET /v1/galleries/…/identities/…";
    const there = await callJson("GET", path, { ...means, endpoint }).catch((error) => {
      if (isNew && error instanceof Problem && error.code === "no_identity") return null;
      throw error;
    });
    if (isNew && there) throw new Problem({ code: "identity_exists", detail: "there is somebody of this id" });
  }

  /**
   * What may be done about a refusal.
   * @param {Problem} problem
   * @returns {Node | null}
   */
  #offer(problem) {
    const anyway = (override) => {
      Object.assign(this.overrides, override);
      this.#send();
    };
    if (problem.code === "low_quality") {
      const reasons = (problem.members.reasons ?? []).map((reason) => make("li", {}, sayReason(reason)));
      const act = button("Enrol anyway", () => anyway({ accept_quality: true }));
      return make("div", {}, make("ul", {}, ...reasons), act);
    }
    if (problem.code === "identity_conflict") {
      const { score, threshold } = problem.members;
      const words = `They are ${score.toFixed(2)} alike, and ${threshold.toFixed(2)} counts as the same person.`;
      return make("div", {}, make("p", {}, words), button("Enrol anyway", () => anyway({ accept_conflict: true })));
    }
    return null;
  }
}

/**
 * A name as the beginning of an id.
 * @param {string} name
 * @returns {string}
 */
function slug(name) {
  const plain = name.normalize("NFKD").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "");
  return plain.slice(0, 40) || "person";
}
