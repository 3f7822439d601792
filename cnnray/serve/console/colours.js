/** Colours of classes as the service draws them; any colour vision tells them apart (Okabe and Ito, 2008). */

const BASE = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
];

/**
 * Red, green and blue of a class; more classes repeat them, lighter.
 * @param {number} number from 0
 * @returns {number[]}
 */
export function rgb(number) {
  const lighter = (Math.floor(number / BASE.length) / 4) % 1;
  return BASE[number % BASE.length].map((part) => Math.round(part + (255 - part) * lighter));
}

/**
 * The same for a style sheet.
 * @param {number} number
 * @returns {string} #rrggbb
 */
export function hex(number) {
  return `#${rgb(number).map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

/**
 * Black or white, whichever reads better on a colour.
 * @param {string} colour #rrggbb
 * @returns {string}
 */
export function inkOn(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => (parseInt(colour.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 ? "#000" : "#fff";
}

/** Hands out colours to names in the order in which they come, and keeps them. */
export class Colours {
  /** @type {Map<string, string>} */
  #given = new Map();

  /**
   * @param {string} name
   * @returns {string} #rrggbb
   */
  of(name) {
    if (!this.#given.has(name)) this.#given.set(name, hex(this.#given.size));
    return /** @type {string} */ (this.#given.get(name));
  }
}
