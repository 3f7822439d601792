"""What the OpenAPI document shows as examples of the JSON that comes and goes; a test holds them to their schemas."""

from typing import Any

_SHA = "9f2c1ab4c0de5c6b7d8e9fa0b1c2d3e4f5061728394a5b6c7d8e9fa0b1c2d3e4"
_REQUEST = "5f0c2b8e4d1a4f7f9a3c6b2d8e7f1a90"
_AT = "2026-03-02T09:30:00.000+00:00"
_TIMINGS = {"queue_ms": 4.1, "inference_ms": 22.8, "total_ms": 28.3}
_END = {"timings": _TIMINGS, "request_id": _REQUEST}
_FACE_MODEL = "dlib_resnet:views=1@9f2c1ab4c0de"
_QUALITY = {
    "size": 96.0, "inside": 1.0, "sharpness": 0.14, "brightness": 0.47, "yaw": -6.2, "pitch": 3.1, "roll": 1.4,
}  # fmt: skip
_LANDMARKS = {
    "left_eye_outer": [201.5, 118.0],
    "left_eye_inner": [184.2, 119.1],
    "right_eye_outer": [141.7, 120.4],
    "right_eye_inner": [158.9, 120.0],
    "nose": [171.3, 152.6],
}

EXAMPLE_JOB_ID = "3b1f0c9a7d2e4c58b6a1f0e9d8c7b6a5"

problem = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "expected the image as a file in the form's field 'file'",
    "code": "no_file",
    "request_id": _REQUEST,
}
status = {"status": "ok"}
model = {
    "name": "efficientnet_lite0@9f2c1ab4c0de",
    "task": "classify",
    "classes": 2,
    "input_size": 224,
    "weights_sha256": _SHA,
    "backbone": "efficientnet_lite0",
    "metrics": {"val_accuracy": 0.97},
    "styles": [],
}
models = {"models": [model]}

classification = {
    "model": model["name"],
    "label": "cat",
    "probability": 0.93,
    "top": [{"label": "cat", "probability": 0.93}, {"label": "dog", "probability": 0.07}],
    "batch_size": 4,
    "explanation": None,
    **_END,
}
segmentation = {
    "model": "unet_mobilenet_v1@9f2c1ab4c0de",
    "height": 480,
    "width": 640,
    "classes": [{"label": "background", "value": 0, "share": 0.81}, {"label": "leaf", "value": 1, "share": 0.19}],
    "confidence": 0.96,
    "batch_size": 1,
    **_END,
}
_not_an_image = {"code": "not_an_image", "detail": "expected a JPEG, PNG or WebP, got 4 bytes that begin b'what'"}
detections = {
    "model": "yolo@9f2c1ab4c0de",
    "images": [
        {
            "height": 480,
            "width": 640,
            "objects": [{"label": "car", "score": 0.88, "box": [34.0, 210.5, 298.2, 391.0]}],
            "error": None,
        },
        {"height": 0, "width": 0, "objects": [], "error": _not_an_image},
    ],
    "batch_size": 2,
    **_END,
}
stylized = {
    "model": "painter@9f2c1ab4c0de",
    "height": 768,
    "width": 1024,
    "styles": {"stained_glass": 0.7, "mosaic": 0.3},
    "batch_size": 1,
    **_END,
}
stylize_job = {
    "id": EXAMPLE_JOB_ID,
    "state": "running",
    "created": 1772443800.0,
    "step": 120,
    "steps": 300,
    "height": 256,
    "width": 256,
    "loss": 21.4,
    "style": 0.31,
    "content": 0.52,
    "variation": 0.04,
    "seconds_left": 41.0,
    "code": "",
    "error": "",
    "preview": f"/v1/stylize/jobs/{EXAMPLE_JOB_ID}/preview",
    "picture": f"/v1/stylize/jobs/{EXAMPLE_JOB_ID}/picture",
}

_picked = {"box": [129.0, 78.0, 225.0, 182.0], "confidence": 1.04, "quality": _QUALITY}
face = {**_picked, "landmarks": _LANDMARKS, "embedding": None}
face_detections = {
    "model": _FACE_MODEL,
    "images": [{"height": 250, "width": 250, "faces": [face], "error": None}],
    "batch_size": 1,
    **_END,
}
face_verification = {
    "model": _FACE_MODEL,
    "same": True,
    "distance": 0.38,
    "probability": 0.97,
    "threshold": 0.5,
    "faces": [face, face],
    "found": [1, 2],
    **_END,
}

policy = {
    "min_size": 40.0,
    "min_confidence": 0.0,
    "min_inside": 0.9,
    "min_sharpness": 0.03,
    "min_brightness": 0.1,
    "max_brightness": 0.95,
    "max_yaw": 45.0,
    "max_pitch": 60.0,
    "max_roll": 60.0,
}
new_gallery = {"name": "staff", "policy": {"min_size": 60}}
new_identity = {"id": "e-1042", "name": "Ada Lovelace", "metadata": {"team": "analytics"}}
changes = {"name": "Ada King", "metadata": {"team": "engines"}}

_counts = {"identities": 210, "faces": 630, "gallery_version": 655}
gallery_summary = {"name": "staff", "model": _FACE_MODEL, **_counts, "calibrated": True, "created_at": _AT}
gallery = {
    "name": "staff",
    "model": _FACE_MODEL,
    "num_features": 128,
    **_counts,
    "threshold": 0.82,
    "calibration": {"fpir": 0.01, "threshold": 0.82, "num_identities": 210, "source": "gallery"},
    "policy": policy,
    "created_at": _AT,
    "index": {"kind": "exact", "identities": 210, "version": 655, "recall": 1.0},
}
dropped_gallery = {"gallery": "staff", "audit_hash": _SHA}
identity = {**new_identity, "created_at": _AT, "num_faces": 1}
stored_face = {"id": 7, "source_sha256": _SHA, "quality": _QUALITY, "created_at": _AT}
identity_detail = {**identity, "faces": [stored_face]}
enrolled = {
    "gallery": "staff",
    "identity": "e-1042",
    "face_ids": [7],
    "added": 1,
    "gallery_version": 656,
    "replayed": False,
    "faces": [_picked],
    "model": _FACE_MODEL,
    **_END,
}
receipt = {
    "gallery": "staff",
    "identity": "e-1042",
    "faces": 1,
    "gallery_version": 657,
    "at": _AT,
    "audit_hash": _SHA,
    "purged": {"log": True, "snapshot": True},
}
_known = {"id": "e-1042", "name": "Ada Lovelace"}
_found = {"model": _FACE_MODEL, "gallery": "staff", "gallery_version": 656}
_search_end = {"timings": {**_TIMINGS, "search_ms": 0.9}, "request_id": _REQUEST}
recognized_face = {
    **face,
    "decision": "identified",
    "identity": _known,
    "score": 0.93,
    "threshold": 0.82,
    "calibrated": True,
    "candidates": [{**_known, "score": 0.93}],
}
recognized = {
    **_found,
    "images": [{"height": 250, "width": 250, "faces": [recognized_face], "error": None}],
    "batch_size": 1,
    **_search_end,
}
claimed_verification = {
    **_found,
    "identity": _known,
    "same": True,
    "score": 0.93,
    "threshold": 0.82,
    "face": face,
    "found": 1,
    **_search_end,
}


def shown(example: dict[str, Any]) -> dict[str, Any]:
    """What a model's `json_schema_extra` is, with this example of it."""
    return {"examples": [example]}
