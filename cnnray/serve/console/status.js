/** Status: what runs behind the service, whether it is ready, and how fast it answers. */

import { call, Problem } from "./api.js";
import { byId, duration, make } from "./dom.js";
import { summary } from "./latency.js";
import { listModels } from "./models.js";
import { Work } from "./work.js";

/**
 * Make the tab work.
 * @param {string} version of the service
 * @param {{name: string, missing: string}[]} tabs
 * @returns {{onShow: () => void}}
 */
export function initStatus(version, tabs) {
  const work = new Work(byId("status-work"));
  byId("status-version").textContent = version;
  const missing = tabs.filter((tab) => tab.missing);
  byId("status-missing").replaceChildren(...missing.map((tab) => make("li", {}, `${tab.name}: ${tab.missing}`)));
  byId("status-missing-part").hidden = !missing.length;
  byId("status-run").addEventListener("click", look);

  async function look() {
    showLatencies();
    const found = await work.run("Looking …", async (means) => {
      const asked = [readiness(means.signal), listModels({ fresh: true, onWait: means.onWait })];
      const [ready, models] = await Promise.all(asked);
      return { ready, models };
    });
    showLatencies();
    if (!found) return;
    const place = byId("status-ready");
    place.textContent = found.ready || "Ready";
    place.className = found.ready ? "bad" : "good";
    byId("status-models").replaceChildren(...found.models.map(card));
  }

  return { onShow: look };
}

/**
 * @param {AbortSignal} signal
 * @returns {Promise<string>} why it is not ready; "" where it is
 */
async function readiness(signal) {
  try {
    await call("GET", "v1/ready", { signal, retries: 0 });
    return "";
  } catch (error) {
    if (error instanceof Problem && error.code === "not_ready") return error.message;
    throw error;
  }
}

function showLatencies() {
  const rows = summary().map(({ endpoint, requests, last, median }) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, endpoint),
      make("td", { class: "n" }, requests),
      make("td", { class: "n" }, duration(last)),
      make("td", { class: "n" }, duration(median)),
    ),
  );
  byId("status-latencies").replaceChildren(...rows);
}

/** @param {any} model */
function card(model) {
  const lines = [
    ["Version", model.name],
    ["Network", model.backbone],
    ["Weights (SHA-256)", model.weights_sha256],
    ["Classes", model.classes || ""],
    ["Sees", model.input_size ? `${model.input_size} × ${model.input_size} px` : "any size"],
    ["Styles", model.styles.join(", ")],
    ...Object.entries(model.metrics).flatMap(([name, value]) => figures(name, value)),
  ];
  const shown = lines.filter(([, value]) => value !== "");
  return make(
    "article",
    { class: "model" },
    make("h3", {}, model.task),
    make("dl", { class: "facts" }, ...shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  );
}

/**
 * A measured figure as lines; what was not measured as a number or a text stays out.
 * @param {string} name
 * @param {any} value
 * @returns {[string, string][]}
 */
function figures(name, value) {
  const words = name.replaceAll("_", " ");
  if (typeof value === "number") return [[words, Number.isInteger(value) ? String(value) : value.toPrecision(4)]];
  if (typeof value === "string") return [[words, value]];
  return [];
}
