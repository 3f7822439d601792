/** The part of a photo to send so that one face of several is meant. */

const MARGINS = [1, 0.6, 0.35, 0.2]; // around the face, in its own sizes; wide ones are found more surely
const CLEARLY = 1.5; // times as far from the middle as the face that is meant

/**
 * The largest part around a face in whose middle lies no other face.
 *
 * The service is asked for the most central face of what it gets.
 * @param {number[][]} boxes of all faces: left, top, right and bottom in px
 * @param {number} at which one is meant
 * @param {number} width of the photo, px
 * @param {number} height
 * @returns {number[]} left, top, right and bottom in px
 */
export function cropAround(boxes, at, width, height) {
  const parts = MARGINS.map((margin) => around(boxes[at], margin, width, height));
  return parts.find((part) => isCentral(part, boxes, at)) ?? parts[parts.length - 1];
}

/**
 * @param {number[]} box
 * @param {number} margin
 * @param {number} width
 * @param {number} height
 * @returns {number[]}
 */
function around([left, top, right, bottom], margin, width, height) {
  const [x, y] = [margin * (right - left), margin * (bottom - top)];
  const part = [Math.max(0, left - x), Math.max(0, top - y), Math.min(width, right + x), Math.min(height, bottom + y)];
  return part.map(Math.round);
}

/**
 * @param {number[]} part
 * @param {number[][]} boxes
 * @param {number} at
 * @returns {boolean}
 */
function isCentral(part, boxes, at) {
  const [x, y] = middle(part);
  const distances = boxes.map((box) => Math.hypot(middle(box)[0] - x, middle(box)[1] - y));
  return distances.every((distance, other) => other === at || distance > CLEARLY * distances[at] + 1);
}

/**
 * @param {number[]} box
 * @returns {number[]}
 */
function middle([left, top, right, bottom]) {
  return [(left + right) / 2, (top + bottom) / 2];
}
