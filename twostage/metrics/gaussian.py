"""The mean and covariance of a stream of features, and the Frechet distance between two of them.

Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979: with scatter
S = sum (x - mean)(x - mean)^T, two parts of n and m rows whose means differ by d become one with
    mean = mean_n + d m / (n + m),    S = S_n + S_m + d d^T n m / (n + m)
Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017, Eq. 6:
    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from twostage.errors import refuse


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """What FID knows of a set of images, on the CPU.

    Attributes:
        mean: float64 [d].
        covariance: float64 [d, d], divided by count - 1.
        count: images; None where a published file does not say.
    """

    mean: Tensor
    covariance: Tensor
    count: int | None


def fit_gaussian(parts: Iterable[Tensor]) -> Gaussian:
    """The Gaussian of features [n_i, d] that come part by part; depends on their order by rounding in float64 only.

    Raises:
        TwoStageError: fewer than 2 rows altogether.
    """
    count, mean, scatter = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in parts:
        if len(part) == 0:
            continue
        rows, added = part.double(), len(part)
        shift = rows.mean(0) - mean
        centred = rows - rows.mean(0)
        scatter = scatter + centred.T @ centred + torch.outer(shift, shift) * (count * added / (count + added))
        mean = mean + shift * (added / (count + added))
        count += added
    if count < 2:
        raise refuse("number of images", count, "at least 2")
    return Gaussian(mean=mean, covariance=scatter / (count - 1), count=count)


def frechet_distance(real: Gaussian, generated: Gaussian) -> float:
    """FID's formula, as torch-fidelity computes it, in float64."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    sides = [{"mu": side.mean.numpy(), "sigma": side.covariance.numpy()} for side in (generated, real)]
    return float(fid_statistics_to_metric(*sides, verbose=False)[KEY_METRIC_FID])
