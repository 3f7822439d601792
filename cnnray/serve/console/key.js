/** The key that requests show: in a field of the page, and for this tab's session alone. */

import { byId } from "./dom.js";

const NAME = "cnnray-key";

/** Told that another key is used now, as the event "change". */
export const keyEvents = new EventTarget();

/**
 * The key, "" where none is set.
 * @returns {string}
 */
export function savedKey() {
  return sessionStorage.getItem(NAME) ?? "";
}

/** Make the field work. */
export function initKey() {
  const [toggle, form, field, hint] = ["key-toggle", "key-form", "key", "key-hint"].map(byId);
  const show = (open) => {
    form.hidden = !open;
    toggle.setAttribute("aria-expanded", String(open));
  };
  toggle.addEventListener("click", () => {
    show(form.hidden);
    if (!form.hidden) field.focus();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    show(false);
    toggle.focus();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (/[^\x21-\x7e]/.test(key)) {
      hint.textContent = "A key has neither blanks nor accents in it. Copy it once more.";
      return;
    }
    use(key);
    show(false);
    toggle.focus();
  });
  byId("key-forget").addEventListener("click", () => {
    field.value = "";
    use("");
    field.focus();
  });
  field.value = savedKey();
  mark();

  function use(key) {
    if (key) sessionStorage.setItem(NAME, key);
    else sessionStorage.removeItem(NAME);
    hint.textContent = "";
    mark();
    keyEvents.dispatchEvent(new Event("change"));
  }

  function mark() {
    toggle.textContent = savedKey() ? "Key ✓" : "Key";
    toggle.setAttribute("aria-label", savedKey() ? "Key: one is in use" : "Key: none is in use");
  }
}

/** Open the field, because the service refused: say so, and let the person type. */
export function askForKey() {
  byId("key-form").hidden = false;
  byId("key-toggle").setAttribute("aria-expanded", "true");
  byId("key-hint").textContent = savedKey()
    ? "The service does not accept this key: it is unknown, revoked or expired."
    : "This service asks for a key. Whoever runs it can make one: cnnray serve keys create";
  byId("key").focus();
}
