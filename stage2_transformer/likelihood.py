"""How likely a prior finds codes, by which priors over the same codes compare.

bits of an image = -log_2 p(c_1 .. c_n | y)
"""

import math

import torch
from tqdm import tqdm

from stage2_transformer.prior import TransformerPrior, next_code_loss
from twostage.data.codes import FrozenCodes
from twostage.data.loader import ordered_batches
from twostage.errors import refuse


@torch.no_grad()
def bits_per_image(prior: TransformerPrior, codes: FrozenCodes, batch_size: int = 64) -> float:
    """The mean over the images of `codes`, each in its first view and with its own class.

    It tells nothing about images: codes that say less about theirs are likelier. Compare priors over one tokenizer.

    Args:
        prior: in eval mode.

    Raises:
        TwoStageError: codes of other classes, of another shape or number than the prior's.
    """
    manifest, config = codes.manifest, prior.config
    found = (manifest.codebook_size, list(manifest.shape))
    expected = (config["codebook_size"], list(config["code_shape"]))
    if found != expected:
        raise refuse(f"{codes.folder}: codebook_size, shape", found, f"the prior's, {expected}")
    if config["num_classes"] not in (None, len(manifest.classes)):
        raise refuse(f"{codes.folder}: classes", len(manifest.classes), f"the prior's {config['num_classes']}")
    total = 0.0
    for batch in tqdm(ordered_batches(codes, batch_size), desc="likelihood", unit="batch", dynamic_ncols=True):
        sequence = prior.sequence(batch["codes"][:, 0].to(prior.device))
        loss = next_code_loss(prior, batch["class_label"].to(prior.device), sequence[:, :-1], sequence)
        total += loss.item() * sequence.numel()
    return total / len(codes) / math.log(2)
