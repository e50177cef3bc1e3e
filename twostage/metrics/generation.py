"""How alike generated and real images are: FID, KID, IS, computed by torch-fidelity, precision and recall.

FID: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017:
    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) for the means and covariances of the features
KID: Binkowski et al., "Demystifying MMD GANs", 2018.
IS: Salimans et al., "Improved techniques for training GANs", 2016.
Precision and recall: Kynkaanniemi et al., 2019; see `twostage.metrics.manifold`.

The numbers depend on how many images there are (FID falls as n grows), so n, of the generated images, is part of every
name: FID-50k, FID@10000.
"""

from dataclasses import dataclass

from torch import Tensor

from twostage.errors import refuse
from twostage.metrics.features import STANDARD_ROWS, FeatureNetwork, Images, RowNames
from twostage.metrics.gaussian import Gaussian, fit_gaussian, frechet_distance
from twostage.metrics.manifold import NEIGHBOURS, Manifold, neighbour_radii, precision_and_recall
from twostage.metrics.outputs import Features
from twostage.metrics.weights import Missing

Rows = dict[str, float | str]
"""Row name -> number, or "missing: ..." where it could not be taken."""

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
"""KID is a mean over random subsets; with fewer images, a subset is all of the smaller set."""

IS_SPLITS = 10
"""IS is a mean over this many parts of the generated images; one an image when there are fewer images."""


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """What is known of a set of images.

    Attributes:
        gaussian: of all of them.
        features: of all of them, or of as many as precision and recall can do with; None where only published
            statistics are known.
        radii: float32 [n], the `neighbour_radii` of these features where they are known already.
    """

    gaussian: Gaussian
    features: Features | None
    radii: Tensor | None = None

    @classmethod
    def of(cls, features: Features) -> "FeatureSet":
        """All is known."""
        return cls(gaussian=fit_gaussian([features.features]), features=features)

    def manifold(self) -> Manifold:
        """What the features cover."""
        assert self.features is not None
        centres = self.features.features
        return Manifold(centres=centres, radii=neighbour_radii(centres) if self.radii is None else self.radii)


def generation_metrics(
    real: Images, generated: Images, network: FeatureNetwork | Missing, *, batch_size: int = 64
) -> Rows:
    """FID, KID, IS (for networks with logits), precision and recall, and the numbers of images.

    Args:
        real: uint8 [n, c, H, W], or a data set.
        generated: likewise, of any number; the same H and W unless the network resizes.
        network: `load_network(...)`; where it is missing, so are its rows, and they say why.
        batch_size: images a forward pass.

    Raises:
        TwoStageError: fewer than 4 images on either side, or images that the network cannot take.
    """
    _require(real, generated, NEIGHBOURS + 1)
    if isinstance(network, Missing):
        return {**missing_metrics(network, len(generated)), **_counts(real, generated)}
    known = [FeatureSet.of(network.extract(images, batch_size)) for images in (real, generated)]
    return {**feature_metrics(known[0], known[1], network.rows), **_counts(real, generated)}


def missing_metrics(missing: Missing, n: int) -> Rows:
    """The rows of `generation_metrics`, each saying what it lacks."""
    names = STANDARD_ROWS.of_number(n)
    return dict.fromkeys((names.frechet, names.kernel, names.score, names.precision, names.recall), str(missing))


def feature_distance(
    real: Images, reconstructed: Images, network: FeatureNetwork | Missing, *, batch_size: int = 64
) -> Rows:
    """The Frechet distance of reconstructions to images: `rFID`, or `rFD-<name>`, and the numbers of images.

    Raises:
        TwoStageError: fewer than 2 images on either side, or images that the network cannot take.
    """
    _require(real, reconstructed, 2)
    names = (STANDARD_ROWS if isinstance(network, Missing) else network.rows).of_number(len(reconstructed))
    rows: Rows
    if isinstance(network, Missing):
        rows = {names.frechet_reconstruction: str(network)}
    else:
        sides = (fit_gaussian([network.extract(images, batch_size).features]) for images in (real, reconstructed))
        rows = {names.frechet_reconstruction: frechet_distance(*sides)}
    return {**rows, **_counts(real, reconstructed)}


def feature_metrics(real: FeatureSet, generated: FeatureSet, network: RowNames) -> Rows:
    """All numbers that features decide, for features gathered elsewhere (chunk by chunk, by several processes)."""
    assert generated.features is not None and generated.gaussian.count is not None
    names = network.of_number(generated.gaussian.count)
    rows: Rows = {names.frechet: frechet_distance(real.gaussian, generated.gaussian)}
    if generated.features.logits is not None:
        rows[names.score] = _inception_score(generated.features)
    if real.features is None:
        known = "missing: the reference holds statistics of its images, but no images"
        return {**rows, **dict.fromkeys((names.kernel, names.precision, names.recall), known)}
    precision, recall = precision_and_recall(real.manifold(), generated.manifold())
    kernel = _kernel_distance(real.features, generated.features)
    return {**rows, names.kernel: kernel, names.precision: precision, names.recall: recall}


def _inception_score(generated: Features) -> float:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    splits = min(IS_SPLITS, len(generated))
    return float(isc_features_to_metric(generated.logits, splits=splits)[KEY_METRIC_ISC_MEAN])


def _kernel_distance(real: Features, generated: Features) -> float:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(KID_SUBSET_SIZE, len(real), len(generated))
    pair = generated.features, real.features
    found = kid_features_to_metric(*pair, kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False)
    return float(found[KEY_METRIC_KID_MEAN])


def _require(real: Images, generated: Images, least: int) -> None:
    for what, images in (("real", real), ("generated", generated)):
        if len(images) < least:
            raise refuse(f"number of {what} images", len(images), f"at least {least}")


def _counts(real: Images, generated: Images) -> Rows:
    return {"n": len(generated), "n_reference": len(real)}
