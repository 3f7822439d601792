/** Which gallery is looked into, and new ones. */

import { callJson } from "./api.js";
import { asked } from "./dialogs.js";
import { byId, count, make } from "./dom.js";
import { Work } from "./work.js";

/** The line above the photo. */
export class GalleryChoice {
  /** @param {(name: string) => void} onChange another one is chosen, "" where there is none */
  constructor(onChange) {
    this.onChange = onChange;
    this.name = "";
    this.work = new Work(byId("gallery-work"));
    this.select = byId("gallery");
    this.select.addEventListener("change", () => this.#choose(this.select.value));
    byId("gallery-new").addEventListener("click", () => this.#create());
  }

  /** Ask which there are; the chosen one stays where it still exists. */
  async load() {
    const found = await this.work.run("Fetching the galleries …", (means) => callJson("GET", "v1/galleries", means));
    if (!found) return;
    const names = found.galleries.map(({ name }) => name);
    this.select.replaceChildren(
      ...found.galleries.map(({ name, identities }) =>
        make("option", { value: name }, `${name} (${count(identities, "person", "people")})`),
      ),
    );
    this.select.disabled = !names.length;
    byId("gallery-none").hidden = names.length > 0;
    const name = names.includes(this.name) ? this.name : (names[0] ?? "");
    this.select.value = name;
    if (name !== this.name) this.#choose(name);
  }

  /** @param {string} name */
  #choose(name) {
    this.name = name;
    this.onChange(name);
  }

  async #create() {
    const name = await asked("New gallery", "Name: letters, digits, “-” and “_”", "", "Create");
    if (name === null) return;
    const ask = (means) => callJson("POST", "v1/galleries", { json: { name }, ...means });
    const made = await this.work.run("Creating …", ask);
    if (!made) return;
    await this.load();
    this.select.value = made.name;
    this.#choose(made.name);
  }
}
