/** A picture from the camera, in a dialog that shows what it sees. */

import { byId } from "./dom.js";

/** Why a camera cannot be used, by the name of the browser's error. */
const REASONS = {
  NotAllowedError: "The browser does not let this page use the camera. Allow it in the address bar, or choose a file.",
  NotFoundError: "No camera was found on this device. Choose a file instead.",
  NotReadableError: "Another program is using the camera. Close it there, or choose a file instead.",
};
const INSECURE = "The browser gives a camera only to pages on https or on 127.0.0.1. Choose a file instead.";

/**
 * Let the person take a picture.
 * @returns {Promise<Blob | null>} null where none was taken
 */
export async function takePicture() {
  const [dialog, video, error, shoot] = ["camera", "camera-video", "camera-error", "camera-shoot"].map(byId);
  const ended = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.returnValue = "";
  error.textContent = "";
  shoot.disabled = true;
  byId("camera-close").onclick = () => dialog.close();
  dialog.showModal();
  const stream = await open((text) => (error.textContent = text));
  if (stream && !dialog.open) stop(stream); // closed while the browser asked
  let picture = null;
  if (stream && dialog.open) {
    video.srcObject = stream;
    await video.play().catch(() => {}); // closed meanwhile
    shoot.disabled = false;
  }
  shoot.onclick = async () => {
    picture = await still(video);
    dialog.close();
  };
  await ended;
  video.srcObject = null;
  if (stream) stop(stream);
  return picture;
}

/**
 * @param {(text: string) => void} say
 * @returns {Promise<MediaStream | null>}
 */
async function open(say) {
  if (!navigator.mediaDevices?.getUserMedia) {
    say(INSECURE);
    return null;
  }
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } }, audio: false });
  } catch (error) {
    say(REASONS[error.name] ?? "The camera cannot be used now. Choose a file instead.");
    return null;
  }
}

/** @param {MediaStream} stream */
function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}

/**
 * What the video shows now.
 * @param {HTMLVideoElement} video
 * @returns {Promise<Blob | null>}
 */
function still(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d")?.drawImage(video, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.95));
}
