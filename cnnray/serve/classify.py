"""/v1/classify: the deployment that holds the classifier, and the endpoint in front of it."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from cnnray.config import ServeConfig
from cnnray.errors import CnnrayError, ImageError, OptionError, UnknownNameError
from cnnray.infer import classify
from cnnray.serve.answers import ask_one
from cnnray.serve.openapi import IMAGE, errors
from cnnray.serve.problems import RETRY_SOON, Refusal
from cnnray.serve.reasons import Reasons, load_explainer
from cnnray.serve.replica import Done, Job, Replica
from cnnray.serve.schemas import Classification, Explanation, Guess, Timings
from cnnray.serve.uploads import OPENAPI_BODY, read_image

NAME = "classifier"
MAX_TOP_K = 1000
MOST_EXPLAINED = 8  # explanations under way in a replica, the one in work and those that wait
_MAX_LABEL = 1000
_FEW = 2  # images that are done sooner by the uncompiled network than by the compiled one, which takes four

Explained = tuple[Done, Explanation]

router = APIRouter(tags=["classes"])


@router.post(
    "/v1/classify",
    summary="Classify one image",
    openapi_extra={"requestBody": OPENAPI_BODY},
    responses=errors(*IMAGE, "explain_label_alone", "not_explainable", (422, "unknown_name")),
)
async def classify_image(
    request: Request,
    top_k: Annotated[int, Query(ge=1, le=MAX_TOP_K, description="classes wanted in `top`")] = 5,
    explain: Annotated[bool, Query(description="also `explanation`: what in the image speaks for the class")] = False,
    explain_label: Annotated[
        str | None,
        Query(max_length=_MAX_LABEL, description="class to explain; without it, that of the answer", examples=["dog"]),
    ] = None,
) -> Classification:
    """The most probable classes of an image (JPEG, PNG, WebP, ...), sent as a form's field `file` or as the body."""
    began = time.perf_counter()
    if explain_label is not None and not explain:
        detail = f"expected explain=true with explain_label, got explain_label={explain_label[:100]!r} alone"
        raise Refusal(422, "explain_label_alone", detail)
    image = await read_image(request)
    done, why = await _ask(request.app.state.models[NAME], image, top_k, explain, explain_label)
    total = 1000 * (time.perf_counter() - began)
    return Classification(
        model=done.model,
        label=done.result.label,
        probability=done.result.probability,
        top=[Guess(label=label, probability=probability) for label, probability in done.result.top],
        batch_size=done.batch_size,
        explanation=why,
        timings=Timings(queue_ms=done.queue_ms, inference_ms=done.inference_ms, total_ms=total),
        request_id=request.state.request_id,
    )


async def _ask(
    model: Any, image: bytes, top_k: int, explain: bool, label: str | None
) -> tuple[Done, Explanation | None]:
    """What a replica says, and why where that is asked.

    Raises:
        ImageError: of the image.
        Refusal: of an explanation: an unknown class, a network without one, too many at once.
    """
    if explain:
        answer: Explained | CnnrayError | None = await model.ask_why.remote(image, top_k, label)
        if not isinstance(answer, tuple):
            raise _refusal(answer)
        return answer
    done = await ask_one(model, image, top_k)
    if isinstance(done.result, ImageError):
        raise done.result
    return done, None


def _refusal(error: CnnrayError | None) -> Exception:
    if error is None:
        detail = "as many explanations are under way as the model takes on; without explain=true it may answer now"
        return Refusal(503, "busy", detail, RETRY_SOON)
    if isinstance(error, UnknownNameError):
        return Refusal(422, error.code, f"query explain_label: {error}")
    return Refusal(422, "not_explainable", f"query explain: {error}") if isinstance(error, OptionError) else error


class Classifier(Replica):
    """A replica of the classifier; the option of a job is its top_k."""

    def __init__(self, config: ServeConfig) -> None:
        device = "cuda" if config.gpu else "cpu"
        model = classify.Classifier.load(config.classifier, device=device, compile=config.compile, few=_FEW)
        super().__init__(model, config)
        model.warm_up(config.max_batch_size)
        self._predict, self._classes = model.predict, model.classes
        self._reasons = Reasons(lambda: load_explainer(config.classifier, device, model.card.weights_sha256))
        # the other places of the replica stay free for requests that ask for no explanation, and for readiness
        self._free = max(1, min(MOST_EXPLAINED, config.max_ongoing // 4))

    def answer(self, jobs: Sequence[Job]) -> list[Any]:
        """A Classification or ImageError for each job."""
        results = self._predict([job.image for job in jobs], max(job.option for job in jobs))
        return [_first(result, job.option) for job, result in zip(jobs, results, strict=True)]

    async def ask_why(self, image: bytes, top_k: int, label: str | None) -> Explained | CnnrayError | None:
        """As `ask`, and what speaks for a class; None is the most probable one.

        Returns:
            Or UnknownNameError, ImageError, OptionError of a network that cannot be explained; None where as many
            explanations are under way as may be.
        """
        if label is not None and label not in self._classes:
            return UnknownNameError("class", label, self._classes)
        if not self._free:
            return None
        self._free -= 1
        try:
            done = await self.ask(image, top_k)
            if isinstance(done.result, ImageError):
                return done.result
            why = await self._reasons.why(image, done.result.label if label is None else label)
        finally:
            self._free += 1
        return why if isinstance(why, OptionError) else (done, why)


def _first(result: classify.Classification | ImageError, top_k: int) -> classify.Classification | ImageError:
    return result if isinstance(result, ImageError) else replace(result, top=result.top[:top_k])
