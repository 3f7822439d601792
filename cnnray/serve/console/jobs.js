/** Stylize: paintings in the style of any picture, which the service makes in the background. */

import { call, callJson, segment } from "./api.js";
import { confirmed } from "./dialogs.js";
import { button, byId, duration, make, randomHex } from "./dom.js";
import { JobView } from "./job_view.js";
import { chosen, NotAPicture, preparePhoto } from "./photo.js";
import { Poll } from "./poll.js";
import { Work } from "./work.js";

const PATH = "v1/stylize/jobs";
const STATES = { queued: "waiting", running: "being painted", done: "finished", failed: "failed" };

/**
 * Make the part for other styles work.
 * @returns {{onShow: () => void, onHide: () => void}}
 */
export function initJobs() {
  const work = new Work(byId("jobs-work"));
  const [list, file, form] = [byId("jobs-list"), byId("jobs-style"), byId("jobs-form")];
  const view = new JobView();
  /** @type {string} what the list showed, to see whether anything goes on */
  let before = "";
  let failed = false;

  const look = async (signal) => {
    const { jobs } = await callJson("GET", PATH, { query: { most: 20 }, signal });
    if (failed) work.clearError();
    failed = false;
    const now = JSON.stringify(jobs);
    const moved = now !== before;
    before = now;
    if (moved) show(jobs);
    await view.follow(jobs, signal);
    const open = jobs.some(({ state }) => state === "queued" || state === "running");
    return open ? { moved } : null;
  };
  const poll = new Poll(look, (error) => {
    failed = true;
    work.fail(error);
  });

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const photo = chosen.current;
    if (!photo || !file.files[0]) {
      work.say(photo ? "Choose a picture with the style first." : "Choose a photo first.");
      return;
    }
    const job = await work.run("Sending …", (means) => start(photo, file.files[0], means));
    if (!job) return;
    view.choose(job.id);
    poll.start();
  });

  function show(jobs) {
    // who has just come to a button with the keyboard is not to lose the place
    const at = list.contains(document.activeElement) ? document.activeElement?.id : "";
    list.replaceChildren(...jobs.map(row));
    if (at) document.getElementById(at)?.focus();
    byId("jobs-none").hidden = jobs.length > 0;
  }

  function row(job) {
    const name = new Date(1000 * job.created).toLocaleString();
    const timed = job.state === "running" && job.seconds_left !== null;
    const left = timed ? `, about ${duration(1000 * job.seconds_left)} left` : "";
    const bar = make("progress", { max: Math.max(1, job.steps), value: job.step, "aria-label": `Painting of ${name}` });
    return make(
      "li",
      { data: { state: job.state } },
      make("p", {}, `${name}: ${STATES[job.state] ?? job.state}, step ${job.step} of ${job.steps}${left}`),
      job.error ? make("p", { class: "bad" }, job.error) : bar,
      make(
        "p",
        { class: "row" },
        button("Show", () => pick(job.id), { id: `show-${job.id}`, "aria-label": `Show the painting of ${name}` }),
        button("Delete", () => remove(job, name), {
          id: `delete-${job.id}`,
          class: "quiet",
          "aria-label": `Delete the painting of ${name}`,
        }),
      ),
    );
  }

  function pick(id) {
    view.choose(id);
    poll.start();
  }

  async function remove(job, name) {
    const ends = job.state === "running" ? ", and the work on it ends" : "";
    const text = `The painting of ${name} and its pictures will be gone for good${ends}.`;
    if (!(await confirmed("Delete this painting?", text, "Delete"))) return;
    const done = await work.run("Deleting …", ({ signal, onWait }) =>
      call("DELETE", `${PATH}/${segment(job.id)}`, { signal, onWait, endpoint: `DELETE /${PATH}/…` }),
    );
    if (done) view.drop(job.id);
    poll.start();
  }

  return { onShow: () => poll.start(), onHide: () => poll.stop() };
}

/**
 * @param {import("./photo.js").Photo} photo
 * @param {File} file with the style
 * @param {import("./work.js").Means} means
 * @returns {Promise<any>} the job
 */
async function start(photo, file, { signal, onWait }) {
  const style = await prepared(file);
  const body = new FormData();
  body.append("file", photo.blob, "photo");
  body.append("style", style, "style");
  const query = {
    size: byId("jobs-size").value,
    steps: byId("jobs-steps").value,
    keep_colors: byId("jobs-colors").checked,
  };
  // the same key for all attempts: a lost answer must not become a second painting
  const headers = { "idempotency-key": randomHex(16) };
  return callJson("POST", PATH, { query, body, headers, signal, onWait });
}

/**
 * @param {File} file
 * @returns {Promise<Blob>} as it is where this browser cannot open it: the service may, or says why not
 */
async function prepared(file) {
  try {
    const { blob, url } = await preparePhoto(file, file.name);
    URL.revokeObjectURL(url);
    return blob;
  } catch (error) {
    if (error instanceof NotAPicture) return file;
    throw error;
  }
}
