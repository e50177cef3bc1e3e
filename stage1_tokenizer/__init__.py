"""Stage one: image tokenizers, quantisers, and the pass that freezes a data set's codes."""

from typing import TYPE_CHECKING

from twostage.lazy import exports

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from stage1_tokenizer.quantizers import QUANTIZERS as QUANTIZERS
    from stage1_tokenizer.tokenizer import VQTokenizer as VQTokenizer

# diffusers' loader looks a component up in its package, and wants ModelMixin beside it.
__getattr__ = exports(
    __name__,
    {
        "VQTokenizer": "stage1_tokenizer.tokenizer",
        "ModelMixin": "diffusers",
        "QUANTIZERS": "stage1_tokenizer.quantizers",
    },
)
