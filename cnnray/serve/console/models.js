/**
 * The models behind the service, asked for once.
 *
 * Several parts of the page share the request, so none of them can end it.
 */

import { callJson } from "./api.js";
import { keyEvents } from "./key.js";

/** @type {Promise<any[]> | null} */
let asked = null;

keyEvents.addEventListener("change", () => (asked = null)); // another key may see them

/**
 * As GET /v1/models lists them.
 * @param {{fresh?: boolean, onWait?: (text: string) => void}} [options] fresh: ask again
 * @returns {Promise<any[]>}
 * @throws {import("./api.js").Problem}
 */
export function listModels({ fresh = false, onWait } = {}) {
  if (!asked || fresh) {
    const mine = (asked = callJson("GET", "v1/models", { onWait }).then(({ models }) => models));
    mine.catch(() => {
      if (asked === mine) asked = null; // the next one asks again
    });
  }
  return asked;
}
