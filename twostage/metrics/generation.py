"""How alike generated and real images are: FID, KID, IS, precision and recall, computed by torch-fidelity.

FID: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", 2017:
    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) for the means and covariances of the features
KID: Binkowski et al., "Demystifying MMD GANs", 2018.
IS: Salimans et al., "Improved techniques for training GANs", 2016.
Precision and recall: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models", 2019.

The numbers depend on how many images there are (FID falls as n grows), so every result says how many there were.
Nothing is cached on disk.
"""

from twostage.errors import refuse
from twostage.metrics.features import STANDARD_ROWS, FeatureNetwork, Features, Images, RowNames
from twostage.metrics.weights import Missing

Rows = dict[str, float | str]
"""Row name -> number, or "missing: ..." where it could not be taken."""

KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
"""KID is a mean over random subsets; with fewer images, a subset is all of the smaller set."""

IS_SPLITS = 10
"""IS is a mean over this many parts of the generated images; one an image when there are fewer images."""

NEIGHBOURS = 3
"""Precision and recall: a sample's ball reaches to this nearest neighbour (Kynkaanniemi et al., Sec. 4)."""


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
    rows: Rows
    if isinstance(network, Missing):
        names = STANDARD_ROWS
        rows = dict.fromkeys((names.frechet, names.kernel, names.score, names.precision, names.recall), str(network))
    else:
        features = network.extract(real, batch_size), network.extract(generated, batch_size)
        rows = feature_metrics(*features, network.rows)
    return {**rows, **_counts(real, generated)}


def feature_distance(
    real: Images, reconstructed: Images, network: FeatureNetwork | Missing, *, batch_size: int = 64
) -> Rows:
    """The Frechet distance of reconstructions to images: `rFID`, or `rFD-<name>`, and the numbers of images.

    Raises:
        TwoStageError: fewer than 2 images on either side, or images that the network cannot take.
    """
    _require(real, reconstructed, 2)
    rows: Rows
    if isinstance(network, Missing):
        rows = {STANDARD_ROWS.frechet_reconstruction: str(network)}
    else:
        distance = frechet_distance(network.extract(real, batch_size), network.extract(reconstructed, batch_size))
        rows = {network.rows.frechet_reconstruction: distance}
    return {**rows, **_counts(real, reconstructed)}


def frechet_distance(real: Features, generated: Features) -> float:
    """FID's formula (Heusel et al., Eq. 6) on two sets of features, with means and covariances in float64."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(side.features.double()) for side in (generated, real)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def feature_metrics(real: Features, generated: Features, names: RowNames) -> Rows:
    """All numbers that features decide, for features gathered elsewhere (from several processes, say)."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    pair = generated.features, real.features  # torch-fidelity's order: precision is about the first
    subset = min(KID_SUBSET_SIZE, len(real), len(generated))
    kernel = kid_features_to_metric(*pair, kid_subsets=KID_SUBSETS, kid_subset_size=subset, verbose=False)
    balls = prc_features_to_metric(*pair, prc_neighborhood=NEIGHBOURS, save_cpu_ram=True, verbose=False)
    rows: Rows = {names.frechet: frechet_distance(real, generated), names.kernel: kernel[KEY_METRIC_KID_MEAN]}
    if generated.logits is not None:
        score = isc_features_to_metric(generated.logits, splits=min(IS_SPLITS, len(generated)))
        rows[names.score] = score[KEY_METRIC_ISC_MEAN]
    return {**rows, names.precision: balls[KEY_METRIC_PRECISION], names.recall: balls[KEY_METRIC_RECALL]}


def _require(real: Images, generated: Images, least: int) -> None:
    for what, images in (("real", real), ("generated", generated)):
        if len(images) < least:
            raise refuse(f"number of {what} images", len(images), f"at least {least}")


def _counts(real: Images, generated: Images) -> Rows:
    return {"images_real": len(real), "images_generated": len(generated)}
