import numpy as np
import pytest
import torch

from twostage.errors import TwoStageError
from twostage.metrics.gaussian import fit_gaussian


@pytest.mark.parametrize("sizes", [[50], [1, 49], [20, 0, 29, 1], [1] * 50])
def test_however_features_come_the_gaussian_is_numpys(generator, sizes):
    features = torch.randn(50, 4, generator=generator) * 3 + 100  # far from zero, where sums of squares would cancel
    found = fit_gaussian(features.split(sizes))
    assert found.count == 50
    np.testing.assert_allclose(found.mean, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(features.double(), rowvar=False), rtol=1e-9)


def test_one_image_has_no_covariance():
    with pytest.raises(TwoStageError, match="number of images: 1 is not allowed; allowed: at least 2"):
        fit_gaussian([torch.zeros(1, 3)])
