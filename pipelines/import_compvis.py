"""`twostage import-compvis`: a released CompVis checkpoint as a model of this package.

The config's `model.target`, the class that it was trained as, decides who reads it.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.runs import check_output
from twostage.config import read_yaml
from twostage.errors import TwoStageError
from twostage.registry import suggest

IMPORTERS: Mapping[str, str] = {
    "taming.models.vqgan.VQModel": "pipelines.compvis.vq:import_vq",
    "taming.models.cond_transformer.Net2NetTransformer": "pipelines.compvis.taming:import_taming",
    "ldm.models.autoencoder.VQModel": "pipelines.compvis.vq:import_vq",
    "ldm.models.autoencoder.VQModelInterface": "pipelines.compvis.vq:import_vq",
    "ldm.models.diffusion.ddpm.LatentDiffusion": "pipelines.compvis.ldm:import_ldm",
}
"""target -> "module:function", called with `model.params`, the weights and the two paths; gives what is saved."""


def import_compvis(config: Path, checkpoint: Path, output: Path) -> Any:
    """Write the model of a CompVis YAML config and its .ckpt file to the folder `output`, whole or not at all.

    Returns:
        The model, in eval mode.

    Raises:
        TwoStageError: `output` is not empty; a config or a checkpoint that cannot be read, is of a kind that is not
            imported, or does not belong to the other.
    """
    check_output(output)
    if output.is_dir() and any(output.iterdir()):
        raise TwoStageError(f"{output}: is not empty; choose another --output, or remove that folder")
    target, params = _model(read_yaml(config), config)
    from pipelines.compvis.checkpoint import read_checkpoint
    from twostage.models import save_model

    weights = read_checkpoint(checkpoint)
    module, function = IMPORTERS[target].split(":")
    model = getattr(import_module(module), function)(params, weights, config, checkpoint)
    save_model(model, output)
    return model


def _model(values: Mapping[str, Any], config: Path) -> tuple[str, Mapping[str, Any]]:
    """`model.target`, one of those we know, and `model.params`."""
    model = values.get("model")
    if not isinstance(model, Mapping) or not isinstance(model.get("params"), Mapping):
        raise TwoStageError(f"{config}: is no config of a CompVis model; allowed: one with model.target, model.params")
    target = model.get("target")
    if target not in list(IMPORTERS):
        raise TwoStageError(f"{config}: model.target: {target!r} is not imported; {suggest(target, IMPORTERS)}")
    return target, model["params"]
