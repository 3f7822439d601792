/** The page: asks what the service has, and sets up the parts that work with it. */

import { callJson, events, Problem } from "./api.js";
import { initChooser } from "./chooser.js";
import { initClassify } from "./classify.js";
import { initDetect } from "./detect.js";
import { button, byId, make } from "./dom.js";
import { initFaces } from "./faces.js";
import { initJobs } from "./jobs.js";
import { askForKey, initKey, keyEvents } from "./key.js";
import { initSegment } from "./segment.js";
import { initStatus } from "./status.js";
import { initStylize } from "./stylize.js";
import { initTabs } from "./tabs.js";

const START = {
  classify: "--classifier CHECKPOINT",
  detect: "--detector CHECKPOINT",
  segment: "--segmenter CHECKPOINT",
  stylize: "--painter default",
  faces: "--faces dlib_resnet",
};

/** Begin; where the service does not answer, offer to try again. */
async function begin() {
  byId("page-error").replaceChildren();
  try {
    const description = await callJson("GET", "openapi.json");
    setUp(description.info.version, new Set(Object.keys(description.paths)));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    byId("page-error").replaceChildren(make("p", {}, error.message), button("Try again", begin));
  }
}

/**
 * @param {string} version of the service
 * @param {Set<string>} paths that it has
 */
function setUp(version, paths) {
  early.abort();
  const has = {
    classify: paths.has("/v1/classify"),
    detect: paths.has("/v1/detect"),
    segment: paths.has("/v1/segment"),
    stylize: paths.has("/v1/stylize") || paths.has("/v1/stylize/jobs"),
    faces: paths.has("/v1/faces/detect"),
  };
  const parts = {
    classify: initClassify,
    detect: initDetect,
    segment: initSegment,
    stylize: () => initPainting(paths.has("/v1/stylize"), paths.has("/v1/stylize/jobs")),
    faces: () => initFaces(paths.has("/v1/galleries")),
  };
  const tabs = Object.keys(parts).map((id) => {
    const name = byId(`tab-${id}`).textContent;
    const missing = has[id] ? "" : `This service was started without it: cnnray serve up ${START[id]}`;
    return { id, name, missing, ...(has[id] ? parts[id]() : {}) };
  });
  const status = { id: "status", name: "Status", missing: "", ...initStatus(version, tabs) };
  const again = initTabs([...tabs, status]);
  keyEvents.addEventListener("change", again);
}

/**
 * Both ways to paint, or the one that the service has.
 * @param {boolean} learnt
 * @param {boolean} jobs
 */
function initPainting(learnt, jobs) {
  byId("stylize-part").hidden = !learnt;
  byId("stylize-missing").hidden = learnt;
  byId("jobs-part").hidden = !jobs;
  byId("jobs-missing").hidden = jobs;
  const parts = [learnt && initStylize(), jobs && initJobs()].filter(Boolean);
  return {
    onShow: () => parts.forEach((part) => part.onShow()),
    onHide: () => parts.forEach((part) => part.onHide()),
  };
}

/** A tab that is chosen before the service has said what it has is the one that opens. */
const early = new AbortController();
for (const tab of document.querySelectorAll("[role=tab]")) {
  const remember = () => history.replaceState(null, "", `#${tab.id.replace("tab-", "")}`);
  tab.addEventListener("click", remember, { signal: early.signal });
}

initKey();
initChooser();
events.addEventListener("unauthenticated", askForKey);
begin();
