"""How generated images are compared with real ones: what has to be the same before two FIDs may be compared.

`ldm`: Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022, appendix: 50,000 samples,
all training images, torch-fidelity. The training images pass through the data set's own loader, as in training (centre
crop, bicubic): other crops of the same photographs give an FID of 15 where 4 is right.
`adm`: Dhariwal, Nichol, "Diffusion models beat GANs on image synthesis", 2021, and their published reference files: the
statistics of a whole data set, and 10,000 of its images for precision and recall. Classes are drawn uniformly.
`clean`: Parmar, Zhang, Zhu, "On aliased resizing and surprising subtleties in GAN evaluation", 2022: as `ldm`, but
Inception's input is resized with antialiasing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from twostage.data.images import Split
from twostage.errors import refuse
from twostage.metrics.inception import Resize

ClassChoice = Literal["balanced", "uniform", "data"]
"""Classes take turns; or are drawn, all alike or as frequent as among the reference images."""


@dataclass(frozen=True, kw_only=True)
class GenerationProtocol:
    """One way of measuring.

    Attributes:
        name: what rows say; tells what was changed, too.
        split: whose images of the data set are the reference, through its own loader; None: a published file.
        resize: of images for Inception.
        classes: of the samples of a class-conditional model.
        num_images: how many samples.
    """

    name: str
    split: Split | None
    resize: Resize
    classes: ClassChoice
    num_images: int = 50_000

    def changed(self, **changes: Any) -> "GenerationProtocol":
        """With some fields replaced, which the name then tells; None leaves a field as it is.

        Raises:
            TwoStageError: a split of a protocol whose reference is a file.
        """
        if changes.get("split") is not None and self.split is None:
            raise refuse("--split", changes["split"], f"nothing: the reference of protocol {self.name} is a file")
        real = {key: value for key, value in changes.items() if value not in (None, getattr(self, key))}
        if not real:
            return self
        told = ", ".join(f"{key}: {value}" for key, value in real.items())
        return replace(self, **real, name=f"{self.name} ({told})")


GENERATION_PROTOCOLS: Mapping[str, GenerationProtocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            GenerationProtocol(name="ldm", split="train", resize="tensorflow", classes="balanced"),
            GenerationProtocol(name="adm", split=None, resize="tensorflow", classes="uniform"),
            GenerationProtocol(name="clean", split="train", resize="pillow", classes="balanced"),
        )
    }
)


def generation_protocol(name: str) -> GenerationProtocol:
    """The protocol of that name.

    Raises:
        TwoStageError: there is none.
    """
    if name not in GENERATION_PROTOCOLS:
        raise refuse("--protocol", name, ", ".join(GENERATION_PROTOCOLS))
    return GENERATION_PROTOCOLS[name]
