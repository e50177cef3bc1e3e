"""Stage two, autoregressive: a transformer over a frozen tokenizer's codes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from stage2_transformer.prior import TransformerPrior as TransformerPrior

# diffusers' loader looks a component up in its package, and wants ModelMixin beside it.
_EXPORTS = {"TransformerPrior": "stage2_transformer.prior", "ModelMixin": "diffusers"}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
