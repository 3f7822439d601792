/** Whether two photos show the same person: the chosen one, and a second. */

import { callJson } from "./api.js";
import { BoxView } from "./boxes.js";
import { byId, percent } from "./dom.js";
import { chosen, NotAPicture, preparePhoto } from "./photo.js";
import { Work } from "./work.js";

const SAME = "#86d98f";
const OTHER = "#ffb27a";

/** Make the part work. */
export function initVerify() {
  const work = new Work(byId("verify-work"));
  const [file, result, said] = [byId("verify-file"), byId("verify-result"), byId("verify-said")];
  const views = [new BoxView(byId("verify-first")), new BoxView(byId("verify-second"))];
  /** @type {import("./photo.js").Photo | null} */
  let second = null;

  const forget = () => {
    work.cancel();
    result.hidden = true;
    said.textContent = "";
  };
  chosen.addEventListener("change", forget);
  file.addEventListener("change", forget);

  byId("verify-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const [first, picked] = [chosen.current, file.files[0]];
    if (!first || !picked) {
      forget();
      work.say(first ? "Choose the second photo." : "Choose the first photo at the top of the page.");
      return;
    }
    forget();
    const answer = await work.run("Comparing …", (means) => compare(first, picked, means));
    if (!answer) return;
    result.hidden = false;
    show(answer);
  });

  async function compare(first, picked, means) {
    let prepared;
    try {
      prepared = await preparePhoto(picked, picked.name);
    } catch (error) {
      if (error instanceof NotAPicture) return { refused: error.message };
      throw error;
    }
    if (second) URL.revokeObjectURL(second.url);
    second = prepared;
    await Promise.all([views[0].show(first), views[1].show(second)]);
    const body = new FormData();
    body.append("first", first.blob, "first");
    body.append("second", second.blob, "second");
    return callJson("POST", "v1/faces/verify", { body, ...means });
  }

  function show(answer) {
    if (answer.refused) {
      result.hidden = true;
      work.say(answer.refused);
      return;
    }
    const words = answer.same ? "The same person." : "Two different people.";
    said.textContent = `${words} ${measure(answer)}${several(answer.found)}`;
    said.className = answer.same ? "verdict good" : "verdict bad";
    const colour = answer.same ? SAME : OTHER;
    views.forEach((view, at) => {
      const words = `The ${at ? "second" : "first"} photo with a box around the face that was compared`;
      view.setBoxes([{ box: answer.faces[at].box, text: "compared", colour }], words);
    });
  }
}

/**
 * @param {any} answer
 * @returns {string}
 */
function measure({ probability, distance, threshold }) {
  if (probability !== null) return `Probability ${percent(probability)}, and ${percent(threshold)} counts as the same.`;
  return `Their distance is ${distance.toFixed(2)}, and up to ${threshold.toFixed(2)} counts as the same.`;
}

/**
 * @param {number[]} found faces of each photo
 * @returns {string}
 */
function several(found) {
  return found.some((number) => number > 1) ? " Of several faces in a photo the largest was compared." : "";
}
