/** Choosing the photo: dropped, pasted, from a file, or from the camera. */

import { takePicture } from "./camera.js";
import { byId } from "./dom.js";
import { chosen, NotAPicture } from "./photo.js";

/** Make the card of the photo work. */
export function initChooser() {
  const file = byId("photo-file");
  byId("photo-choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files[0]) choose(file.files[0], file.files[0].name);
    file.value = ""; // the same file again is another choice
  });
  byId("photo-camera").addEventListener("click", async () => {
    const picture = await takePicture();
    if (picture) choose(picture, "camera");
  });
  document.addEventListener("paste", onPaste);
  initDrop();
  chosen.addEventListener("change", show);
}

/**
 * @param {Blob} file
 * @param {string} name
 */
async function choose(file, name) {
  const error = byId("photo-error");
  error.textContent = "";
  try {
    await chosen.choose(file, name);
  } catch (fault) {
    if (!(fault instanceof NotAPicture)) throw fault;
    error.textContent = fault.message;
  }
}

/** @param {ClipboardEvent} event */
function onPaste(event) {
  const file = pictureOf(event.clipboardData);
  if (!file) return; // text for a field
  event.preventDefault();
  choose(file, file.name || "pasted picture");
}

/** The whole page takes what is dropped: nobody should have to aim, and a miss would leave the page. */
function initDrop() {
  let inside = 0; // elements under the pointer that were entered and not yet left
  const light = () => document.body.classList.toggle("dropping", inside > 0);
  const hasFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!hasFile(event)) return;
    inside += 1;
    light();
  });
  document.addEventListener("dragleave", (event) => {
    if (!hasFile(event)) return;
    inside = Math.max(0, inside - 1);
    light();
  });
  document.addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!hasFile(event)) return;
    event.preventDefault();
    inside = 0;
    light();
    const file = event.dataTransfer?.files[0];
    if (file) choose(file, file.name);
  });
}

/**
 * @param {DataTransfer | null} data
 * @returns {File | undefined}
 */
function pictureOf(data) {
  return [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
}

function show() {
  const photo = chosen.current;
  if (!photo) return;
  const image = byId("photo-image");
  image.src = photo.url;
  image.alt = `The chosen photo, ${photo.name}`;
  byId("photo-shown").hidden = false;
  byId("photo-empty").hidden = true;
  byId("photo-choose").textContent = "Choose another";
  const size = `${photo.width} × ${photo.height} px`;
  byId("photo-said").textContent = [`${photo.name}: ${size}`, photo.note].filter(Boolean).join(", ");
}
