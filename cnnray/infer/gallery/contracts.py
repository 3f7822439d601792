"""Which galleries the embeddings of a pipeline belong to, and with which threshold a new one begins."""

from cnnray.errors import GalleryError
from cnnray.infer.faces import FacePipeline
from cnnray.infer.gallery import names
from cnnray.infer.gallery.record import Record
from cnnray.infer.gallery.rows import Contract

NOBODY = 2.0  # a threshold above every cosine


def contract_of(pipeline: FacePipeline, base_threshold: float = 0.0) -> Contract:
    """What a new gallery of this pipeline is bound to.

    An embedder with a verification head judges by a probability, which no cosine stands for. Without `base_threshold`
    its gallery recognises nobody, and sees no conflict, until it is calibrated; a request may still bring a threshold
    of its own.

    Args:
        base_threshold: least cosine of two faces of one person; 0 is the embedder's own.
    """
    own = NOBODY if pipeline.cosine_threshold is None else pipeline.cosine_threshold
    return Contract(pipeline.name, pipeline.spec.num_features, base_threshold or own)


def open_contract(record: Record, gallery: str, pipeline: FacePipeline, base_threshold: float = 0.0) -> Contract:
    """The contract of a gallery that is there, or that a new one of this pipeline gets.

    Raises:
        GalleryError: "model_mismatch": it is another embedder's; "bad_name" of one that is not there.
    """
    try:
        row = record.get_gallery(gallery)
    except GalleryError:
        names.check_gallery(gallery)
        return contract_of(pipeline, base_threshold)
    row.check_model(pipeline.name)
    return row.contract
