/** Faces: who is in the photo, and the people who are known. */

import { byId } from "./dom.js";
import { Enrol } from "./enrol.js";
import { GalleryChoice } from "./gallery_choice.js";
import { People } from "./people.js";
import { Recognise } from "./recognise.js";
import { initVerify } from "./verify.js";

/**
 * Make the tab work.
 * @param {boolean} galleries whether the service keeps any
 * @returns {{onShow: () => void, onHide: () => void}}
 */
export function initFaces(galleries) {
  initVerify();
  byId("faces-missing").hidden = galleries;
  for (const id of ["gallery-part", "people-part"]) byId(id).hidden = !galleries;
  if (!galleries) {
    const recognise = new Recognise({ gallery: () => "", onPick: () => {} });
    return { onShow: () => recognise.show(), onHide: () => recognise.hide() };
  }
  const choice = new GalleryChoice((name) => {
    enrol.close();
    people.open(name);
    recognise.again();
  });
  const people = new People(() => {
    recognise.again();
    choice.load();
  });
  const recognise = new Recognise({
    gallery: () => choice.name,
    onPick: (picked) => (picked ? enrol.open(picked, choice.name, people.known) : enrol.close()),
  });
  const enrol = new Enrol(() => {
    people.open(choice.name);
    recognise.again();
    choice.load();
  });
  return {
    onShow: async () => {
      await choice.load();
      if (!byId("faces").hidden) recognise.show(); // it may have been left meanwhile
    },
    onHide: () => recognise.hide(),
  };
}
