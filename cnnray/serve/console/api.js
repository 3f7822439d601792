/** Talks to the service: the key, waiting where it is busy, errors as `Problem`, and how long answers take. */

import { savedKey } from "./key.js";
import { record } from "./latency.js";
import { say } from "./words.js";

const RETRIES = 3;
const LONGEST_WAIT = 60; // seconds; whoever is told to wait longer is told so at once
const RETRIED = new Set([429, 503]);

/** Told of answers that ask for a key, as the event "unauthenticated". */
export const events = new EventTarget();

/** An answer that is an error, or none at all; its message is a sentence for a person. */
export class Problem extends Error {
  /**
   * @param {{code: string, detail: string, status?: number, requestId?: string, retryAfter?: number,
   *   members?: Record<string, any>}} parts
   */
  constructor({ code, detail, status = 0, requestId = "", retryAfter, members = {} }) {
    super(say({ code, detail, retryAfter, members }));
    Object.assign(this, { code, detail, status, requestId, retryAfter, members });
  }
}

/**
 * @typedef {object} Request
 * @property {Record<string, any>} [query] a list is there several times; undefined is left out
 * @property {BodyInit} [body]
 * @property {any} [json] a body
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 * @property {(text: string) => void} [onWait] what to show while the service is busy, "" when it is asked again
 * @property {number} [retries] times that a busy service is asked again
 * @property {string} [endpoint] name for the latencies, where the path has names in it
 */

/**
 * Ask; the answer's body has not been read yet, but for that of an error.
 * @param {string} method
 * @param {string} path from the service's root, without the first "/", so that the page also works below a prefix
 * @param {Request} [request]
 * @returns {Promise<Response>}
 * @throws {Problem} the service refuses or does not answer
 */
export async function call(method, path, request = {}) {
  const retries = request.retries ?? RETRIES;
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await once(method, path, request);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.code === "unauthenticated") events.dispatchEvent(new Event("unauthenticated"));
      // what an attempt whose answer was lost has deleted is not there the next time
      if (method === "DELETE" && attempt > 1 && error.status === 404) return new Response("null");
      const seconds = error.retryAfter ?? 1;
      if (!RETRIED.has(error.status) || attempt > retries || seconds > LONGEST_WAIT) throw error;
      await pause(seconds, request.signal, (left) =>
        request.onWait?.(`The service is busy. Waiting ${left} s before attempt ${attempt + 1} of ${retries + 1} …`),
      );
      request.onWait?.("");
    }
  }
}

/**
 * Ask for JSON.
 * @param {string} method
 * @param {string} path as of `call`
 * @param {Request} [request]
 * @returns {Promise<any>}
 * @throws {Problem} as `call`
 */
export async function callJson(method, path, request = {}) {
  const answer = await call(method, path, request);
  try {
    return await answer.json();
  } catch (error) {
    if (error instanceof SyntaxError) throw new Problem({ code: "bad_answer", detail: "no JSON" });
    throw lost(error);
  }
}

/**
 * Ask for a picture.
 * @param {string} method
 * @param {string} path as of `call`
 * @param {Request} [request]
 * @returns {Promise<{blob: Blob, headers: Headers}>}
 * @throws {Problem} as `call`
 */
export async function callPicture(method, path, request = {}) {
  const answer = await call(method, path, request);
  try {
    return { blob: await answer.blob(), headers: answer.headers };
  } catch (error) {
    throw lost(error);
  }
}

/**
 * A name or an id as a part of a path; "." too, since a path that ends in ".." is that of the level above.
 * @param {string} text
 * @returns {string}
 */
export function segment(text) {
  return encodeURIComponent(text).replaceAll(".", "%2E");
}

/**
 * @param {string} method
 * @param {string} path
 * @param {Request} request
 * @returns {Promise<Response>}
 */
async function once(method, path, request) {
  const began = performance.now();
  let answer;
  try {
    answer = await fetch(address(path, request.query), {
      method,
      headers: headersOf(request),
      body: request.json === undefined ? request.body : JSON.stringify(request.json),
      signal: request.signal,
    });
  } catch (error) {
    throw lost(error);
  }
  if (!answer.ok) throw await problemOf(answer);
  record(request.endpoint ?? `${method} /${path}`, performance.now() - began);
  return answer;
}

/**
 * @param {string} path
 * @param {Record<string, any>} [query]
 * @returns {URL}
 */
function address(path, query = {}) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined) url.searchParams.append(name, one);
  }
  return url;
}

/**
 * @param {Request} request
 * @returns {Record<string, string>}
 */
function headersOf(request) {
  const key = savedKey();
  return {
    ...(key && { authorization: `Bearer ${key}` }),
    ...(request.json !== undefined && { "content-type": "application/json" }),
    ...request.headers,
  };
}

/**
 * What happened where no answer came; one that this page gave up itself stays as it is.
 * @param {any} error
 * @returns {any}
 */
function lost(error) {
  if (error?.name === "AbortError") return error;
  return new Problem({ code: navigator.onLine ? "network" : "offline", detail: String(error?.message ?? error) });
}

/**
 * @param {Response} answer
 * @returns {Promise<Problem>}
 */
async function problemOf(answer) {
  const body = await answer.json().catch(() => null);
  const after = Number(answer.headers.get("retry-after") ?? NaN);
  const { code, detail, request_id: id, ...members } = body ?? {};
  return new Problem({
    code: code ?? (RETRIED.has(answer.status) ? "busy" : "bad_answer"),
    detail: detail ?? `status ${answer.status}`,
    status: answer.status,
    requestId: id ?? answer.headers.get("x-request-id") ?? "",
    retryAfter: Number.isFinite(after) ? Math.max(1, Math.ceil(after)) : undefined,
    members,
  });
}

/**
 * @param {number} seconds
 * @param {AbortSignal | undefined} signal
 * @param {(left: number) => void} onSecond
 * @returns {Promise<void>}
 */
async function pause(seconds, signal, onSecond) {
  for (let left = seconds; left > 0; left -= 1) {
    onSecond(left);
    await new Promise((resolve) => setTimeout(resolve, 1000));
    signal?.throwIfAborted();
  }
}
