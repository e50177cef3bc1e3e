"""LatentDiffusionPipeline: class label -> noise -> latents -> codes -> images.

"High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022), over a VQ tokenizer's latents.
"""

from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from pipelines.requests import (
    ClassLabel,
    Generators,
    OutputType,
    check_guidance,
    check_steps,
    class_ids,
    finish,
    image_generators,
)
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.denoiser import LatentDenoiser


class LatentDiffusionPipeline(DiffusionPipeline):
    """Sample images from a latent diffusion model.

    Args:
        tokenizer: the frozen first stage.
        denoiser: the second stage.
        scheduler: a diffusers scheduler of the noise schedule that the denoiser was trained with.
        id2label: class id (as text) -> name; None for an unconditional model.
    """

    tokenizer: VQTokenizer
    denoiser: LatentDenoiser
    scheduler: DDIMScheduler
    model_cpu_offload_seq = "denoiser->tokenizer"

    def __init__(
        self,
        tokenizer: VQTokenizer,
        denoiser: LatentDenoiser,
        scheduler: DDIMScheduler,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(tokenizer=tokenizer, denoiser=denoiser, scheduler=scheduler)
        self.register_to_config(id2label=id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_label: ClassLabel = None,
        *,
        num_images: int = 1,
        num_inference_steps: int = 200,
        guidance_scale: float = 1.0,
        eta: float = 0.0,
        generator: Generators = None,
        output_type: OutputType = "pil",
    ) -> ImagePipelineOutput:
        """Sample.

        Args:
            class_label: an id, a name, a list of either, or None for no class.
            num_images: so many of each label.
            num_inference_steps: denoising steps, at least 1.
            guidance_scale: s of uncond + s (cond - uncond); 1 means no guidance.
            eta: of DDIM, 0 deterministic to 1 ancestral; schedulers that know no eta ignore it.
            generator: one, or one per image. The same generator state gives the same images, on any batch split.
            output_type: `pil`, `np` or `pt` in [0, 1], or `latent` for the vectors given to the decoder.

        Returns:
            `.images`, in the order of the labels.

        Raises:
            TwoStageError: a label the model does not know, guidance of an unconditional model, too few steps.
        """
        id2label = self.config.id2label
        ids = class_ids(class_label, num_images, id2label)
        check_guidance(guidance_scale, id2label)
        check_steps(num_inference_steps, self.scheduler.config.num_train_timesteps)
        generators = image_generators(generator, len(ids))
        latents = self._denoise(ids, num_inference_steps, guidance_scale, eta, generators)
        z_q = self.tokenizer.quantize(self.denoiser.denormalize(latents)).z_q
        if output_type == "latent":
            return ImagePipelineOutput(images=z_q)
        return ImagePipelineOutput(images=finish(self.tokenizer.decode(z_q), output_type))

    def _denoise(
        self, ids: list[int | None], steps: int, scale: float, eta: float, generators: list[torch.Generator]
    ) -> Tensor:
        """Normalised latents [b, d, h, w] of the classes asked for."""
        device, dtype = self._execution_device, self.denoiser.dtype
        shape = (self.denoiser.config.latent_dim, *[self.denoiser.config.latent_size] * 2)
        noise = torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in generators])
        self.scheduler.set_timesteps(steps, device=device)
        latents = noise.to(device, dtype) * self.scheduler.init_noise_sigma
        options = self._step_options(eta, generators)
        labels = self._labels(ids, guided=scale != 1.0)
        for t in self.progress_bar(self.scheduler.timesteps):
            batch = latents if scale == 1.0 else torch.cat([latents, latents])
            prediction = self.denoiser(self.scheduler.scale_model_input(batch, t), t, labels)
            if scale != 1.0:
                conditional, unconditional = prediction.chunk(2)
                prediction = unconditional + scale * (conditional - unconditional)
            latents = self.scheduler.step(prediction, t, latents, return_dict=False, **options)[0]
        return latents

    def _labels(self, ids: list[int | None], *, guided: bool) -> Tensor | None:
        if self.denoiser.config.num_classes is None:
            return None
        null = self.denoiser.null_class
        labels = [null if i is None else i for i in ids]
        return torch.tensor(labels + [null] * (len(ids) if guided else 0), device=self._execution_device)

    def _step_options(self, eta: float, generators: list[torch.Generator]) -> dict[str, Any]:
        return {"eta": eta, "generator": generators} if isinstance(self.scheduler, DDIMScheduler) else {}
