"""HVQ: the codebook of "Hierarchical Quantized Autoencoders" (Williams et al., 2020), by its reset only.

    c_k <- c_j + s sigma noise,   j drawn with probability U_j / (sum of U over codes in use)

for a code k that is used too little: it is put next to a popular code, whose features the two then share. U, sigma
and what "too little" means are those of `reset.py`. Every few steps the authors move the least used code next to the
most used one, with noise of standard deviation 0.01; here every starved code is moved, and popular codes are drawn, so
that not all go to the same place.
"""

from typing import ClassVar

import torch
from torch import Tensor

from stage1_tokenizer.quantizers.reset import ResetCodebook
from twostage.training.distributed import broadcast


class HVQ(ResetCodebook):
    """VQ, whose starved codes are moved next to popular ones. Options: those of `ResetCodebook`."""

    noise: ClassVar = 0.01

    def destinations(self, starved: Tensor, features: Tensor) -> Tensor:
        popularity = self.average_usage.index_fill(0, starved, 0)
        return self.codebook[broadcast(torch.multinomial(popularity, len(starved), replacement=True))]
