/** How long the service took, as this page saw it: by endpoint, the newest answers. */

const KEPT = 100; // answers of an endpoint

/** @type {Map<string, number[]>} */
const seen = new Map();

/**
 * An answer came.
 * @param {string} endpoint such as "POST /v1/classify"
 * @param {number} milliseconds from sending until its answer began
 */
export function record(endpoint, milliseconds) {
  const times = seen.get(endpoint) ?? [];
  times.push(milliseconds);
  if (times.length > KEPT) times.shift();
  seen.set(endpoint, times);
}

/**
 * What was measured, by endpoint in the order of their names.
 * @returns {{endpoint: string, requests: number, last: number, median: number}[]}
 */
export function summary() {
  return [...seen.entries()]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([endpoint, times]) => ({ endpoint, requests: times.length, last: times.at(-1), median: median(times) }));
}

/**
 * @param {number[]} values at least one
 * @returns {number}
 */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
