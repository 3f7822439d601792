/** Questions in a dialog of the page. */

import { byId } from "./dom.js";

/**
 * Ask before something that cannot be undone.
 * @param {string} title
 * @param {string} text what will be gone
 * @param {string} action the word on the button that does it
 * @returns {Promise<boolean>}
 */
export async function confirmed(title, text, action) {
  const answer = await ask(title, text, action, { danger: true });
  return answer !== null;
}

/**
 * Ask for a line of text.
 * @param {string} title
 * @param {string} label
 * @param {string} value that it has now
 * @param {string} action
 * @returns {Promise<string | null>} null where the person changed their mind
 */
export function asked(title, label, value, action) {
  return ask(title, "", action, { label, value });
}

/**
 * @param {string} title
 * @param {string} text
 * @param {string} action
 * @param {{label?: string, value?: string, danger?: boolean}} options
 * @returns {Promise<string | null>}
 */
function ask(title, text, action, { label = "", value = "", danger = false }) {
  const [dialog, form, field, yes, no] = ["ask", "ask-form", "ask-value", "ask-yes", "ask-no"].map(byId);
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-field").hidden = !label;
  byId("ask-label").textContent = label;
  Object.assign(field, { value, required: Boolean(label), disabled: !label });
  yes.textContent = action;
  yes.classList.toggle("danger", danger);
  return new Promise((resolve) => {
    let answer = null;
    form.onsubmit = (event) => {
      event.preventDefault();
      answer = field.value.trim();
      dialog.close();
    };
    no.onclick = () => dialog.close();
    dialog.onclose = () => resolve(answer);
    dialog.showModal();
    (label ? field : no).focus(); // of what cannot be undone, the harmless answer is the near one
  });
}
