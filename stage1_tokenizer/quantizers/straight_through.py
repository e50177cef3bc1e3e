"""Straight-through estimators: how the gradient at the code reaches the encoder.

"Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation" (Bengio et al., 2013):
the forward value is the code, the backward pass the identity.
"""

from torch import Tensor


def straight_through(features: Tensor, vectors: Tensor) -> Tensor:
    """features + sg(vectors - features): the value of `vectors`, the gradient of `features`; all [n, d]."""
    return features + (vectors - features).detach()
