"""`twostage evaluate likelihood`: how likely an autoregressive prior finds codes that it was not trained on."""

from pathlib import Path
from typing import Any

from pipelines.autoregressive import AutoregressivePipeline
from pipelines.evaluation.provenance import libraries, pipeline_fingerprint
from stage2_transformer.likelihood import bits_per_image
from twostage.data.codes import FrozenCodes
from twostage.errors import refuse
from twostage.models import fingerprint


def evaluate_likelihood(pipeline: Any, codes_folder: Path) -> dict[str, Any]:
    """Bits per image and per code of a codes folder, by the prior of a pipeline, and what was measured with what.

    Raises:
        TwoStageError: another kind of pipeline, or codes that are another tokenizer's, broken, or of other classes.
    """
    if not isinstance(pipeline, AutoregressivePipeline):
        raise refuse("pipeline", type(pipeline).__name__, "an AutoregressivePipeline, whose prior has a likelihood")
    codes = FrozenCodes(codes_folder, fingerprint(pipeline.tokenizer))
    bits = bits_per_image(pipeline.prior, codes)
    manifest = codes.manifest
    return {
        "bits_per_image": bits,
        "bits_per_code": bits / pipeline.prior.length,
        "images": {"n": manifest.count, "split": manifest.split, "data": manifest.data["name"]},
        "model": pipeline_fingerprint(pipeline),
        "libraries": libraries(),
    }
