/**
 * Tabs as the WAI-ARIA pattern has them: one stop for the Tab key, arrows between them.
 *
 * What the service lacks can be reached, too, but not opened: it then says how it would be started.
 */

import { byId } from "./dom.js";

/**
 * @typedef {object} Tab
 * @property {string} id of its panel; its button is `tab-ID`
 * @property {string} missing what to say where the service lacks it; "" where it has it
 * @property {() => void} [onShow]
 * @property {() => void} [onHide]
 */

/**
 * Make them work, and open the one that the address names, or else the first there is.
 * @param {Tab[]} tabs in their order
 * @returns {() => void} lets the open one begin again
 */
export function initTabs(tabs) {
  const buttons = tabs.map(({ id }) => byId(`tab-${id}`));
  let open = -1;

  tabs.forEach((tab, at) => {
    buttons[at].setAttribute("aria-disabled", String(Boolean(tab.missing)));
    buttons[at].addEventListener("click", () => go(at));
    buttons[at].addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = (to + tabs.length) % tabs.length;
      buttons[next].focus();
      go(next);
    });
  });
  addEventListener("hashchange", () => go(named()));
  const first = named();
  go(first >= 0 && !tabs[first].missing ? first : tabs.findIndex((tab) => !tab.missing));
  return () => tabs[open]?.onShow?.();

  /** @returns {number} -1 of an address that names none */
  function named() {
    return tabs.findIndex(({ id }) => `#${id}` === location.hash);
  }

  /** @param {number} to */
  function go(to) {
    if (to < 0) return;
    roam(to);
    byId("missing").textContent = tabs[to].missing;
    if (tabs[to].missing || to === open) return;
    const before = open;
    open = to;
    buttons.forEach((button, at) => button.setAttribute("aria-selected", String(at === to)));
    tabs.forEach(({ id }, at) => (byId(id).hidden = at !== to));
    if (before >= 0) {
      history.replaceState(null, "", `#${tabs[to].id}`);
      tabs[before].onHide?.();
    }
    tabs[to].onShow?.();
  }

  /** The Tab key stops at one of them. @param {number} at */
  function roam(at) {
    buttons.forEach((button, other) => (button.tabIndex = other === at ? 0 : -1));
  }
}
