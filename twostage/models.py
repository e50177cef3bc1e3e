"""What saved models owe to whoever loads them: an error for missing weights, and a fingerprint."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from twostage.errors import TwoStageError
from twostage.files import atomic


class CheckedLoading:
    """Mixin before diffusers' ModelMixin: `from_pretrained` refuses missing or unexpected weights."""

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> Any:
        """Load config.json and safetensors from a local folder or a hub id, in eval mode.

        Raises:
            TwoStageError: config or weights cannot be read, or weights are missing or do not belong to this model;
                then the first name is given.
        """
        wants_report = options.pop("output_loading_info", False)
        asked = [options.pop(key, None) for key in ("dtype", "torch_dtype")]
        dtype = next((dtype for dtype in asked if dtype is not None), None)
        options["use_safetensors"] = True  # no pickles
        try:
            model, report = super().from_pretrained(folder, output_loading_info=True, **options)  # type: ignore[misc]
        except (OSError, ValueError, SafetensorError) as error:
            raise TwoStageError(f"{folder}: could not be loaded ({error})") from error
        for kind in ("missing_keys", "unexpected_keys"):
            if report[kind]:
                name = sorted(report[kind])[0]
                raise TwoStageError(f"{folder}: {len(report[kind])} {kind.replace('_', ' ')}, first {name!r}")
        model.register_to_config(_name_or_path=Path(folder).name)  # a whole path would go wherever this is saved next
        if isinstance(dtype, torch.dtype):  # by the model itself, which may keep some parts in float32
            model = model.to(dtype)
        return (model, report) if wants_report else model


def save_model(model: Any, folder: str | Path) -> None:
    """`model.save_pretrained(folder)`, whole or not at all."""
    with atomic(folder, refusals=(SafetensorError,)) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)


def fingerprint(model: nn.Module) -> str:
    """sha256 over a diffusers model's config and every tensor of its state: equal exactly when the model is."""
    config = {k: v for k, v in model.config.items() if not k.startswith("_")}  # type: ignore[union-attr, operator]
    return state_fingerprint(model, json.dumps(config, sort_keys=True, default=str))


@torch.no_grad()
def state_fingerprint(module: nn.Module, config: str) -> str:
    """sha256 over a text and every tensor of a module's state."""
    digest = hashlib.sha256(config.encode())
    for name, tensor in sorted(module.state_dict().items()):
        value = tensor.cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
