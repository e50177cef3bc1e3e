"""`twostage evaluate generation`: samples against real images, under a protocol, with all that numbers depend on."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.evaluation.classes import choose_classes
from pipelines.evaluation.drawing import Drawing, Drawn, check_image_folder, draw, save_npz, save_pngs
from pipelines.evaluation.memorisation import QUERIES, Queries, memorisation
from pipelines.evaluation.provenance import describe_network, libraries, pipeline_fingerprint, sampling_settings
from pipelines.processes import is_first
from pipelines.sample import check_options, sample_some
from twostage.errors import refuse
from twostage.metrics.features import FeatureNetwork
from twostage.metrics.gaussian import fit_gaussian, frechet_distance
from twostage.metrics.generation import NEIGHBOURS, Rows, feature_metrics, missing_metrics
from twostage.metrics.generation_protocols import GenerationProtocol
from twostage.metrics.reference import Reference, check_image_size, data_reference
from twostage.metrics.reference_file import file_reference
from twostage.metrics.weights import Missing
from twostage.training.distributed import meet

PER_CLASS = 100
"""A class with fewer images on either side has no FID of its own."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """An evaluation.

    Attributes:
        protocol: decides the reference, the classes and how Inception resizes.
        num_images, seed, batch_size: of the samples.
        options: passed to the pipeline's call.
        parts: the folder that keeps what was drawn, so that the same request goes on where it was interrupted.
        cache: the folder of reference statistics.
        data: the data set whose images are the reference; None where the reference is a file.
        reference: that file.
        save_images, save_npz: where the samples are to be kept as PNG files, and as one array.
        per_class: also a distance for every class.
        neighbours: a picture of samples beside their nearest training images.
    """

    protocol: GenerationProtocol
    num_images: int
    parts: Path
    cache: Path
    seed: int = 0
    batch_size: int = 100
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    reference: Path | None = None
    save_images: Path | None = None
    save_npz: Path | None = None
    per_class: bool = False
    neighbours: Path | None = None

    def check(self, pipeline: Any, network: FeatureNetwork | Missing) -> None:
        """Refuse what cannot be done, before anything is.

        Raises:
            TwoStageError: too few images, an option that the pipeline does not allow, parts that do not go together.
        """
        for name, value, least in (
            ("num_images", self.num_images, NEIGHBOURS + 1),
            ("batch_size", self.batch_size, 1),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise refuse(name, value, f"an integer of at least {least}")
        check_options(pipeline, self.options)
        if self.save_images is not None:
            check_image_folder(self.save_images, self.num_images)
        from_file = self.protocol.split is None
        if from_file and self.reference is None:
            raise refuse("--reference", None, f"a file, which protocol {self.protocol.name} needs")
        if not from_file and self.reference is not None:
            raise refuse("--reference", str(self.reference), "a file with --protocol adm only")
        classes = bool(pipeline.config.id2label) and not from_file
        if not classes and self.per_class:
            raise refuse("--per-class", True, "a model and reference images with classes")
        if self.protocol.classes == "data" and (not classes or isinstance(network, Missing)):
            raise refuse("--classes", "data", "balanced or uniform, without a model, data and feature network for it")
        if self.neighbours is not None and self.protocol.split != "train":
            raise refuse("--neighbours", True, "a protocol whose reference are the training images")


def evaluate_generation(pipeline: Any, network: FeatureNetwork | Missing, request: Request) -> dict[str, Any] | None:
    """FID, KID, IS, precision and recall, with protocol, numbers of images, seed and fingerprints.

    Every process of a torchrun calls this; the numbers do not depend on how many there are.

    Args:
        network: where its weights are missing, the rows say so, and samples are drawn only to be kept.

    Returns:
        The row, on the first process; None on the others.

    Raises:
        TwoStageError: see `Request.check`; a reference that does not fit.
    """
    request.check(pipeline, network)
    known = None if isinstance(network, Missing) else open_reference(pipeline, network, request)
    meet()
    drawing = plan(pipeline, known, request)
    keep = request.save_images is not None or request.save_npz is not None
    drawn = draw(pipeline, drawing, None if known is None else known[0], request.parts, keep_images=keep)
    meet()
    _save(drawn, request)
    if not is_first():
        return None
    row: dict[str, Any] = {"protocol": request.protocol.name, "n": request.num_images}
    if known is None:
        assert isinstance(network, Missing)
        row |= missing_metrics(network, request.num_images)
    else:
        row |= measure(pipeline, *known, drawing, drawn, request)
    return row | {
        "seed": request.seed,
        "batch_size": request.batch_size,
        "classes": request.protocol.classes if pipeline.config.id2label else None,
        "sampling": sampling_settings(pipeline, request.options),
        "model": pipeline_fingerprint(pipeline),
        "samples": drawn.digest(),
        "network": describe_network(network),
        "libraries": libraries(),
    }


def open_reference(pipeline: Any, network: FeatureNetwork, request: Request) -> tuple[FeatureNetwork, Reference]:
    """The reference of a request, and the network that sees it.

    Raises:
        TwoStageError: its images have another size than the samples, or classes of other names where these matter.
    """
    if request.protocol.split is None:
        assert request.reference is not None
        reference = file_reference(request.reference, network, request.cache)
    else:
        assert request.data is not None
        reference = data_reference(request.data, request.protocol.split, network, request.cache)
    check_image_size(reference, pipeline.tokenizer.config.image_size)
    names = list((pipeline.config.id2label or {}).values())
    if (request.per_class or request.protocol.classes == "data") and names != reference.classes:
        raise refuse("classes of the reference images", reference.classes, f"those of the model: {', '.join(names)}")
    return network, reference


def plan(pipeline: Any, known: tuple[FeatureNetwork, Reference] | None, request: Request) -> Drawing:
    """Which samples are to be drawn."""
    names, choice = pipeline.config.id2label or {}, request.protocol.classes
    frequencies = known[1].labels.bincount(minlength=len(names)).tolist() if known and choice == "data" else []
    labels = choose_classes(choice, request.num_images, len(names), seed=request.seed, frequencies=frequencies)
    return Drawing(
        labels=labels,
        classes={"choice": choice, "frequencies": frequencies},
        seed=request.seed,
        batch_size=request.batch_size,
        options=request.options,
    )


def _save(drawn: Drawn, request: Request) -> None:
    if drawn.images is None:
        return
    if request.save_images is not None:
        save_pngs(drawn.images, request.save_images)
    if request.save_npz is not None and is_first():
        save_npz(drawn.images, request.save_npz)


def measure(
    pipeline: Any, network: FeatureNetwork, reference: Reference, drawing: Drawing, drawn: Drawn, request: Request
) -> dict[str, Any]:
    """Everything that features say."""
    generated = drawn.feature_set()
    row: dict[str, Any] = {"n_reference": reference.gaussian.count}
    row |= feature_metrics(reference.feature_set(), generated, network.rows)
    row["reference"] = reference.describe()
    if request.per_class:
        row["per_class"] = per_class_distances(pipeline, network, reference, drawn)
    if request.neighbours is not None:
        assert request.data is not None and generated.features is not None
        redraw = partial(sample_some, pipeline, labels=drawing.labels, seed=drawing.seed, **drawing.options)
        queries = Queries(features=generated.features.features[:QUERIES], redraw=redraw)
        row["neighbours"] = memorisation(queries, reference, request.data, network, request.neighbours)
    return row


def per_class_distances(
    pipeline: Any, network: FeatureNetwork, reference: Reference, drawn: Drawn
) -> dict[str, dict[str, float | str]]:
    """Class name -> the Frechet distance of its samples to its real images, by a name that says how many there were."""
    assert reference.parts is not None and drawn.features is not None
    sides = {
        "n": (drawn.features, torch.cat(list(drawn.features.stream("labels")))),
        "n_reference": (reference.parts, reference.labels),
    }
    found = {}
    for label, name in enumerate(pipeline.config.id2label.values()):
        rows = {side: (labels == label).nonzero().flatten() for side, (_, labels) in sides.items()}
        row: Rows = {side: len(indices) for side, indices in rows.items()}
        title = network.rows.of_number(len(rows["n"])).frechet
        if min(map(len, rows.values())) < PER_CLASS:
            row[title] = f"missing: a class needs {PER_CLASS} images on either side"
        else:
            own = [fit_gaussian([sides[side][0].rows("features", rows[side])]) for side in ("n_reference", "n")]
            row[title] = frechet_distance(*own)
        found[name] = row
    return found
