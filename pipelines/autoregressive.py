"""AutoregressivePipeline: class label -> codes, one after another -> images.

"Taming Transformers for High-Resolution Image Synthesis" (Esser et al., 2021), over any VQ tokenizer's codes.
"""

from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

from pipelines.completion import Known, known_part
from pipelines.requests import (
    ClassLabel,
    Generators,
    OutputType,
    check_guidance,
    class_ids,
    finish,
    image_generators,
)
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_transformer.decoding import Compiled, MakeDecoder, decoder
from stage2_transformer.guidance import Guidance
from stage2_transformer.prior import TransformerPrior
from stage2_transformer.sampling import KnownCodes, Sampling, sample_codes


class AutoregressivePipeline(DiffusionPipeline):
    """Sample images from a transformer over codes.

    Args:
        tokenizer: the frozen first stage.
        prior: the second stage.
        id2label: class id (as text) -> name; None for an unconditional model.
    """

    tokenizer: VQTokenizer
    prior: TransformerPrior
    model_cpu_offload_seq = "prior->tokenizer"

    def __init__(self, tokenizer: VQTokenizer, prior: TransformerPrior, id2label: dict[str, str] | None = None) -> None:
        super().__init__()
        self.register_modules(tokenizer=tokenizer, prior=prior)
        self.register_to_config(id2label=id2label)
        self._make_decoder: MakeDecoder = decoder

    @torch.no_grad()
    def __call__(
        self,
        class_label: ClassLabel = None,
        *,
        num_images: int = 1,
        guidance_scale: float = 1.0,
        guidance_power: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        image: Any = None,
        mask: Any = None,
        generator: Generators = None,
        output_type: OutputType = "pil",
    ) -> ImagePipelineOutput:
        """Sample, or complete images.

        A completion keeps the codes whose whole patch is known and draws the others in raster order. A code is fitted
        to those above it and to its left, known or drawn, and cannot look ahead at known codes below: to complete the
        upper half of an image is little else than to draw it.

        Args:
            class_label: an id, a name, a list of either, or None for no class.
            num_images: so many of each label.
            guidance_scale, guidance_power, guidance_interval: see `stage2_transformer.guidance.Guidance`.
            temperature, top_k, top_p: see `stage2_transformer.sampling.Sampling`.
            image: complete these: PIL, arrays or tensors in [0, 1] of the model's size, one or one per sample.
            mask: white (above 0.5) where `image` is drawn anew; the other pixels come out as they went in.
            generator: one, or one per image. The same generator state gives the same images, on any batch split.
            output_type: `pil`, `np` or `pt` in [0, 1], or `latent` for codes int64 [b, h, w].

        Returns:
            `.images`, in the order of the labels.

        Raises:
            TwoStageError: a label the model does not know, guidance of an unconditional model, a bad sampling option,
                an image or mask that does not fit.
        """
        ids = class_ids(class_label, num_images, self.config.id2label, knows_no_class=self.prior.config.knows_no_class)
        sampling = self.check_sampling(
            guidance_scale=guidance_scale,
            guidance_power=guidance_power,
            guidance_interval=guidance_interval,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        known = known_part(image, mask, len(ids), self.tokenizer)
        labels = torch.tensor([self.prior.null_class if i is None else i for i in ids], device=self._execution_device)
        codes = sample_codes(
            self.prior,
            labels,
            sampling,
            image_generators(generator, len(ids)),
            known=None if known is None else self._known_codes(known, labels.device),
            make_decoder=self._make_decoder,
            progress=self.progress_bar,
        )
        if output_type == "latent":
            return ImagePipelineOutput(images=codes)
        images = self.tokenizer.decode_codes(codes)
        return ImagePipelineOutput(images=finish(images if known is None else known.paste(images), output_type))

    def check_sampling(
        self,
        *,
        guidance_scale: float = 1.0,
        guidance_power: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> Sampling:
        """What a call with these options will do.

        Raises:
            TwoStageError: an option that makes no sense, or not with this model.
        """
        guidance = Guidance(scale=guidance_scale, power=guidance_power, interval=guidance_interval)
        check_guidance(guidance_scale, self.config.id2label, knows_no_class=self.prior.config.knows_no_class)
        sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, guidance=guidance)
        sampling.check(self.prior.config.codebook_size)
        return sampling

    def compile_sampling(self, **options: Any) -> None:
        """From the next call on, run the transformer compiled; see `stage2_transformer.decoding.Compiled`.

        Args:
            options: of `torch.compile`, by default `mode="reduce-overhead"`, one CUDA graph per step.
        """
        self._make_decoder = Compiled(**options)

    def _known_codes(self, known: Known, device: torch.device) -> KnownCodes:
        """The codes of what is known, and which are to be drawn: where any pixel of their patch is."""
        codes = self.tokenizer.encode(known.blanked().to(device, self.tokenizer.dtype)).codes
        drawn = known.latent_mask(self.tokenizer.downsampling)
        return KnownCodes(codes=codes, drawn=(drawn if codes.ndim == 4 else drawn.squeeze(1)).expand_as(codes))
