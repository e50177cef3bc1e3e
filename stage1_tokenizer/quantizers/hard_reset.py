"""Hard reset: the codebook's restarts of "Jukebox: A Generative Model for Music" (Dhariwal et al., 2020).

    c_k <- z_i + s sigma noise,   z_i a random feature of this batch

for a code k that is used too little. U, sigma and what "too little" means are those of `reset.py`. Jukebox's codes
are running means and restart below one feature per batch; here they learn by VQ's gradient, the threshold is relative
to K, and the noise keeps codes apart that get the same feature.
"""

from typing import ClassVar

import torch
from torch import Tensor

from stage1_tokenizer.quantizers.reset import ResetCodebook
from twostage.training.distributed import broadcast, row_counts, rows_at


class HardReset(ResetCodebook):
    """VQ, whose starved codes are moved to features. Options: those of `ResetCodebook`.

    A feature is chosen twice only if there are fewer of them than starved codes.
    """

    noise: ClassVar = 0.1

    def destinations(self, starved: Tensor, features: Tensor) -> Tensor:
        n, total = len(starved), sum(row_counts(features))
        order = broadcast(torch.randperm(total, device=features.device))
        return rows_at(features, order.repeat(-(-n // total))[:n])
