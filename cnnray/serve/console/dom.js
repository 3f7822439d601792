/** Small helpers for elements. Text is always set as text, so nothing that a service says can become markup. */

/**
 * The element of an id; the page has all that are asked for.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/**
 * A new element.
 * @param {string} tag
 * @param {Record<string, any>} [properties] `class`, `on` (listeners by event), `data` (data-* by name), names with a
 *   hyphen or `role` and `for` as attributes, all others as properties; null and undefined are left out.
 * @param {...(Node | string | number | null | undefined)} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name === "class") element.className = value;
    else if (name === "on") Object.entries(value).forEach(([event, act]) => element.addEventListener(event, act));
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  for (const child of children) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/**
 * A button.
 * @param {string} text
 * @param {(event: Event) => void} press
 * @param {Record<string, any>} [properties] as of `make`
 * @returns {HTMLButtonElement}
 */
export function button(text, press, properties = {}) {
  return make("button", { type: "button", ...properties, on: { click: press, ...properties.on } }, text);
}

/**
 * A share from 0 to 1 as per cent, with a digit where that says more.
 * @param {number} share
 * @returns {string}
 */
export function percent(share) {
  const value = 100 * share;
  if (value > 0 && value < 0.1) return "under 0.1 %";
  return `${value < 10 && value !== 0 ? value.toFixed(1) : Math.round(value)} %`;
}

/**
 * A duration for people.
 * @param {number} milliseconds
 * @returns {string}
 */
export function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/**
 * A count with its noun.
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 * @returns {string}
 */
export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

/**
 * Unguessable hexadecimal digits. (crypto.randomUUID is missing on plain http; this is not.)
 * @param {number} bytes
 * @returns {string}
 */
export function randomHex(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
