"""Stage one: image tokenizers, quantisers, and the pass that freezes a data set's codes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from stage1_tokenizer.quantizers import QUANTIZERS as QUANTIZERS
    from stage1_tokenizer.tokenizer import VQTokenizer as VQTokenizer

# diffusers' loader looks a component up in its package, and wants ModelMixin beside it.
_EXPORTS = {
    "VQTokenizer": "stage1_tokenizer.tokenizer",
    "ModelMixin": "diffusers",
    "QUANTIZERS": "stage1_tokenizer.quantizers",
}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
