"""What both pipelines understand in a call: class labels, one generator per image, the form of the images."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers.image_processor import VaeImageProcessor
from torch import Tensor

from twostage.data.loader import mix
from twostage.errors import TwoStageError, refuse
from twostage.registry import suggest

ClassLabel = int | str | Sequence[int | str] | None
Generators = torch.Generator | Sequence[torch.Generator] | None
OutputType = Literal["pil", "np", "pt", "latent"]
ONLY_CLASSES = "this model was never trained without a class (label_dropout)"


def class_ids(
    label: ClassLabel, num_images: int, id2label: Mapping[str, str] | None, *, knows_no_class: bool = True
) -> list[int | None]:
    """One class id per image: `num_images` of each label asked for, label by label; None means "no class".

    Raises:
        TwoStageError: an id or a name that the model does not know, or any label of an unconditional model.
    """
    if num_images < 1:
        raise refuse("num_images", num_images, "an integer of at least 1")
    labels = list(label) if isinstance(label, Sequence) and not isinstance(label, str) else [label]
    if not labels:
        raise refuse("class_label", label, "an int, a class name, a list of either, or None")
    if None in labels and id2label and not knows_no_class:
        raise refuse("class_label", None, f"0..{len(id2label) - 1}, or a class name: {ONLY_CLASSES}")
    return [id_ for one in labels for id_ in [class_id(one, id2label)] * num_images]


def class_id(label: int | str | None, id2label: Mapping[str, str] | None) -> int | None:
    """The id of one class label: an int in range, or a name as the data set spells it."""
    if label is None:
        return None
    if not id2label:
        raise TwoStageError(f"class_label: {label!r} is not allowed; this model is unconditional: leave it out")
    if isinstance(label, str):
        ids = {name: int(i) for i, name in id2label.items()}
        if label not in ids:
            raise TwoStageError(f"class_label: {label!r} is not a class of this model; {suggest(label, ids)}")
        return ids[label]
    if isinstance(label, bool) or not hasattr(label, "__index__") or not 0 <= label < len(id2label):
        raise refuse("class_label", label, f"0..{len(id2label) - 1}, or a class name")
    return operator.index(label)


def check_guidance(scale: float, id2label: Mapping[str, str] | None, *, knows_no_class: bool = True) -> None:
    """Guidance is a finite number, and needs a class to be guided to, and "no class" to be guided from."""
    if not math.isfinite(scale):
        raise refuse("guidance_scale", scale, "a finite number; 1 means no guidance")
    if scale != 1.0 and not id2label:
        raise refuse("guidance_scale", scale, "1.0: this model is unconditional and has nothing to be guided to")
    if scale != 1.0 and not knows_no_class:
        raise refuse("guidance_scale", scale, f"1.0: {ONLY_CLASSES}")


def check_steps(steps: int, timesteps: int) -> None:
    """Between one denoising step and as many as the noise schedule has."""
    if not isinstance(steps, int) or not 1 <= steps <= timesteps:
        raise refuse("num_inference_steps", steps, f"an integer in 1..{timesteps}")


def image_generators(generator: Generators, count: int) -> list[torch.Generator]:
    """One CPU generator per image, so that an image does not depend on which others are drawn beside it.

    A single generator gives every image a seed of its own, from one draw and the image's index.
    """
    if isinstance(generator, Sequence):
        if len(generator) != count:
            raise refuse("generator", f"a list of {len(generator)}", f"one generator, or one per image ({count})")
        return list(generator)
    draw = torch.randint(2**62, (), generator=generator, device=generator.device if generator is not None else None)
    return [torch.Generator().manual_seed(mix(int(draw), i)) for i in range(count)]


def finish(images: Tensor, output_type: OutputType) -> Any:
    """Images [b, c, H, W] in about [-1, 1] as a list of PIL images, or arrays or tensors in [0, 1]."""
    return VaeImageProcessor().postprocess(images.float().cpu(), output_type=output_type)
