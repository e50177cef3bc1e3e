"""Stage two, autoregressive: a transformer over a frozen tokenizer's codes."""

from typing import TYPE_CHECKING

from twostage.lazy import exports

if TYPE_CHECKING:
    from diffusers import ModelMixin as ModelMixin

    from stage2_transformer.prior import TransformerPrior as TransformerPrior

# diffusers' loader looks a component up in its package, and wants ModelMixin beside it.
__getattr__ = exports(__name__, {"TransformerPrior": "stage2_transformer.prior", "ModelMixin": "diffusers"})
