/** What went wrong, and what to do about it, in a sentence for a person. */

/**
 * @typedef {object} Fault what `say` needs of a problem
 * @property {string} code
 * @property {string} detail
 * @property {number} [retryAfter] seconds
 * @property {Record<string, any>} [members]
 */

/** @type {Record<string, string | ((fault: Fault) => string)>} */
const SENTENCES = {
  // between here and there
  network: "The service does not answer. Check that it still runs and that this machine reaches it, then try again.",
  offline: "This device is offline. Connect it to the network, then try again.",
  bad_answer: "The answer is not one of this service. Something between it and this page may have put its own there.",
  // who asks
  unauthenticated: "This service asks for a key. Enter a valid one under “Key” at the top, then try again.",
  insufficient_scope: ({ detail }) => `The key is not allowed to do this: ${detail}.`,
  rate_limited: ({ retryAfter }) => `The key is used up for now. Try again in ${retryAfter ?? 60} seconds.`,
  foreign_host:
    "Without keys the service answers only to names of its own machine. " +
    "Open this page there, as http://127.0.0.1, or start the service with keys.",
  foreign_origin: "The service takes no requests from pages of other places. Open this page at its own address.",
  // how much is going on
  busy: "The service has its hands full. Try again in a moment.",
  model_unavailable: "The model went away while it worked and is being started again. Try again in a few seconds.",
  not_ready: ({ detail }) => `Not everything is ready: ${detail}.`,
  timeout: "The service gave up, because this took too long. A smaller photo is faster.",
  too_many_jobs: "As many paintings are waiting as the service takes. Delete one, or try again when one is finished.",
  record_unavailable: "The galleries' database cannot be used now. What is stored there is safe; try again later.",
  internal: "Something in the service failed. Its log has more under the number below.",
  // the picture
  empty: "The picture is empty. Choose another.",
  not_an_image: "This is not a picture that the service can read. Choose a JPEG, PNG or WebP file.",
  unsupported_format: "The service does not read this kind of picture. Choose a JPEG, PNG or WebP file.",
  truncated: "The end of the picture is missing. Copy or download it again.",
  corrupt: "The picture is damaged. Choose another copy of it.",
  too_large: "The picture has more pixels than the service takes. Make it smaller first.",
  too_small: "The picture is too small for this. Choose a larger one.",
  animated: "The picture moves. Choose a still one.",
  body_too_large: "The file is larger than the service takes. Make the picture smaller first.",
  // explanations
  not_explainable: "This network's answers cannot be explained: no part of it keeps track of places in the photo.",
  // faces and galleries
  no_face: ({ detail }) => {
    const which = /\b(first|second) image\b/.exec(detail)?.[1];
    const where = which ? ` in the ${which} photo` : "";
    return `No face was found${where}. Choose a photo where the face is larger, upright and well lit.`;
  },
  several_faces: "There is more than one face. Choose a photo with one.",
  low_quality: "This picture of the face is not good enough to recognise the person by.",
  identity_conflict: ({ members }) => `This face already belongs to “${members?.identity}”.`,
  no_gallery: "There is no such gallery any more. Choose another, or create one.",
  gallery_exists: "There is a gallery of this name already. Choose it from the list, or take another name.",
  no_identity: "There is nobody with this id in the gallery.",
  identity_exists: "There is somebody with this id already.",
  erased: "This person was erased meanwhile.",
  model_mismatch:
    "The gallery was made with another face network, whose faces do not compare with those of today's. " +
    "Create a new one, or rebuild it.",
  bad_name: ({ detail }) => `This name does not work: ${detail}.`,
  // painting
  no_job: "There is no such painting any more.",
  not_finished: "The painting is not finished yet.",
};

/**
 * Why a picture of a face is not good enough, by the gate's reason.
 * @type {Record<string, string>}
 */
const REASONS = {
  too_small: "The face is too small in the photo: move closer, or use a larger photo.",
  low_confidence: "It is not certain that this is a face.",
  cut_off: "A part of the face lies outside the photo.",
  blurred: "The face is blurred: hold still, or focus on it.",
  too_dark: "The face is too dark: turn towards the light.",
  too_bright: "The face is too bright: avoid glaring light.",
  turned_away: "The face is turned away: look into the camera, head upright.",
};

/**
 * The sentence about a fault; what the service says itself where there is none of ours.
 * @param {Fault} fault
 * @returns {string}
 */
export function say(fault) {
  const known = Object.hasOwn(SENTENCES, fault.code) ? SENTENCES[fault.code] : null;
  if (typeof known === "function") return known(fault);
  return known ?? sentence(fault.detail);
}

/**
 * The sentence about a reason of the quality gate.
 * @param {string} reason
 * @returns {string}
 */
export function sayReason(reason) {
  return Object.hasOwn(REASONS, reason) ? REASONS[reason] : sentence(reason.replaceAll("_", " "));
}

/**
 * @param {string} text
 * @returns {string}
 */
function sentence(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
