/** The people of a gallery, page by page, to rename and to erase. */

import { callJson, segment } from "./api.js";
import { asked, confirmed } from "./dialogs.js";
import { button, byId, count, make } from "./dom.js";
import { Work } from "./work.js";

const PAGE = 25;
const ENDPOINT = "/v1/galleries/…/identities";

/** The list below the photo. */
export class People {
  /** @param {() => void} onChange somebody has another name, or is gone */
  constructor(onChange) {
    this.onChange = onChange;
    this.work = new Work(byId("people-work"));
    this.rows = byId("people-rows");
    this.more = byId("people-more");
    this.gallery = "";
    this.cursor = "";
    /** Names by id, of those that the list shows. @type {Map<string, string>} */
    this.known = new Map();
    this.more.addEventListener("click", () => this.#load());
  }

  /** Show a gallery's from the first on. @param {string} gallery "" shows none */
  async open(gallery) {
    this.work.cancel();
    Object.assign(this, { gallery, cursor: "" });
    if (gallery) await this.#load();
    else this.#fill([], true);
  }

  async #load() {
    const from = this.cursor;
    const path = `v1/galleries/${segment(this.gallery)}/identities`;
    const query = { limit: PAGE, cursor: from || undefined };
    const ask = (means) => callJson("GET", path, { query, endpoint: `GET ${ENDPOINT}`, ...means });
    const page = await this.work.run("Fetching people …", ask);
    if (!page) return;
    this.cursor = page.cursor ?? "";
    this.#fill(page.identities, !from);
  }

  #fill(people, first) {
    if (first) {
      this.known.clear();
      this.rows.replaceChildren();
    }
    for (const { id, name } of people) this.known.set(id, name);
    this.rows.append(...people.map((person) => this.#row(person)));
    this.more.hidden = !this.cursor;
    byId("people-table").hidden = !this.known.size;
    const number = this.known.size;
    const words = this.cursor ? `The first ${number} people.` : `${count(number, "person", "people")}.`;
    byId("people-said").textContent = this.gallery ? words : "";
  }

  #row(person) {
    const row = make(
      "tr",
      {},
      make("th", { scope: "row" }, person.name, make("span", { class: "id" }, person.id)),
      make("td", { class: "n" }, person.num_faces),
      make(
        "td",
        { class: "row" },
        button("Rename", () => this.#rename(person, row), { class: "quiet", "aria-label": `Rename ${person.name}` }),
        button("Delete", () => this.#erase(person, row), { class: "quiet", "aria-label": `Delete ${person.name}` }),
      ),
    );
    return row;
  }

  #path(id) {
    return `v1/galleries/${segment(this.gallery)}/identities/${segment(id)}`;
  }

  async #rename(person, row) {
    const name = await asked(`Rename ${person.name}`, "New name", person.name, "Rename");
    if (!name || name === person.name) return;
    const changed = await this.work.run("Renaming …", (means) =>
      callJson("PATCH", this.#path(person.id), { json: { name }, endpoint: `PATCH ${ENDPOINT}/…`, ...means }),
    );
    if (!changed) return;
    const renamed = this.#row({ ...person, name: changed.name });
    row.replaceWith(renamed);
    renamed.querySelector("button").focus();
    this.known.set(person.id, changed.name);
    this.work.say(`The name is now ${changed.name}.`);
    this.onChange();
  }

  async #erase(person, row) {
    const faces = count(person.num_faces, "face");
    const text =
      `The name, what is kept of ${person.name}, and ${faces} will be erased for good. ` +
      "No search finds the person from then on, and nobody can bring them back.";
    if (!(await confirmed(`Delete ${person.name}?`, text, "Delete for good"))) return;
    const receipt = await this.work.run("Erasing …", async (means) => {
      // null where an attempt whose answer was lost had done it
      const endpoint = `DELETE ${ENDPOINT}/…`;
      return { answer: await callJson("DELETE", this.#path(person.id), { endpoint, ...means }) };
    });
    if (!receipt) return;
    row.remove();
    this.known.delete(person.id);
    this.#fill([], false);
    byId("people-title").focus(); // the button, where it was, has gone
    this.work.say(`${person.name} was erased${receipt.answer ? `, with ${count(receipt.answer.faces, "face")}` : ""}.`);
    this.onChange();
  }
}
