"""AutoregressivePipeline: class label -> codes, one after another -> images.

"Taming Transformers for High-Resolution Image Synthesis" (Esser et al., 2021), over any VQ tokenizer's codes.
"""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput

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
from stage2_transformer.prior import TransformerPrior
from stage2_transformer.sampling import Sampling, sample_codes


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

    @torch.no_grad()
    def __call__(
        self,
        class_label: ClassLabel = None,
        *,
        num_images: int = 1,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        generator: Generators = None,
        output_type: OutputType = "pil",
    ) -> ImagePipelineOutput:
        """Sample.

        Args:
            class_label: an id, a name, a list of either, or None for no class.
            num_images: so many of each label.
            guidance_scale: s of uncond + s (cond - uncond), on logits; 1 means no guidance.
            temperature, top_k, top_p: see `stage2_transformer.sampling.Sampling`.
            generator: one, or one per image. The same generator state gives the same images, on any batch split.
            output_type: `pil`, `np` or `pt` in [0, 1], or `latent` for codes int64 [b, h, w].

        Returns:
            `.images`, in the order of the labels.

        Raises:
            TwoStageError: a label the model does not know, guidance of an unconditional model, a bad sampling option.
        """
        id2label = self.config.id2label
        ids = class_ids(class_label, num_images, id2label)
        sampling = self.check_sampling(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p)
        labels = torch.tensor([self.prior.null_class if i is None else i for i in ids], device=self._execution_device)
        codes = sample_codes(
            self.prior, labels, sampling, image_generators(generator, len(ids)), progress=self.progress_bar
        )
        if output_type == "latent":
            return ImagePipelineOutput(images=codes)
        return ImagePipelineOutput(images=finish(self.tokenizer.decode_codes(codes), output_type))

    def check_sampling(
        self, *, guidance_scale: float = 1.0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
    ) -> Sampling:
        """What a call with these options will do.

        Raises:
            TwoStageError: an option that makes no sense, or not with this model.
        """
        check_guidance(guidance_scale, self.config.id2label)
        return Sampling(temperature=temperature, top_k=top_k, top_p=top_p, guidance_scale=guidance_scale)
