"""LatentDiffusionPipeline: class label -> noise -> latents -> codes -> images.

"High-Resolution Image Synthesis with Latent Diffusion Models" (Rombach et al., 2022), over a VQ tokenizer's latents.
Images are completed as in "RePaint: Inpainting using Denoising Diffusion Probabilistic Models" (Lugmayr et al., 2022).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from pipelines.completion import Known, known_part
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
from pipelines.solvers import check_family, noise_level
from pipelines.solvers import solver as named_solver
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.guidance import Guidance
from twostage.errors import refuse


@dataclass(frozen=True)
class Denoising:
    """How the noise is taken away: by which scheduler, towards a class how strongly."""

    scheduler: Any
    guidance: Guidance


class LatentDiffusionPipeline(DiffusionPipeline):
    """Sample images from a latent diffusion model.

    Args:
        tokenizer: the frozen first stage.
        denoiser: the second stage.
        scheduler: a diffusers scheduler of the noise schedule that the denoiser was trained with.
        id2label: class id (as text) -> name; None for an unconditional model.

    Raises:
        TwoStageError: the scheduler expects another prediction than the denoiser makes.
    """

    tokenizer: VQTokenizer
    denoiser: LatentDenoiser
    scheduler: Any
    model_cpu_offload_seq = "denoiser->tokenizer"

    def __init__(
        self,
        tokenizer: VQTokenizer,
        denoiser: LatentDenoiser,
        scheduler: DDIMScheduler,
        id2label: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        check_family(scheduler, denoiser)
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
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
        solver: str | None = None,
        image: Any = None,
        mask: Any = None,
        resamplings: int = 5,
        snap: bool = True,
        generator: Generators = None,
        output_type: OutputType = "pil",
    ) -> ImagePipelineOutput:
        """Sample, or complete images.

        Args:
            class_label: an id, a name, a list of either, or None for no class.
            num_images: so many of each label.
            num_inference_steps: denoising steps, at least 1.
            guidance_scale, guidance_rescale, guidance_interval: see `stage2_ldm.guidance.Guidance`.
            eta: of DDIM, 0 deterministic to 1 ancestral; schedulers that know no eta ignore it.
            solver: a name of `pipelines.solvers` in place of the pipeline's own scheduler, over the same schedule.
            image: complete these: PIL, arrays or tensors in [0, 1] of the model's size, one or one per sample.
            mask: white (above 0.5) where `image` is drawn anew; the other pixels come out as they went in.
            resamplings: how often each step of a completion is taken back and repeated, which fits the drawn part to
                the known one.
            snap: quantise the latents once more before they are decoded; the decoder has seen no others.
            generator: one, or one per image. The same generator state gives the same images, on any batch split.
            output_type: `pil`, `np` or `pt` in [0, 1], or `latent` for the vectors given to the decoder.

        Returns:
            `.images`, in the order of the labels.

        Raises:
            TwoStageError: a label the model does not know, guidance of an unconditional model, too few steps, a
                solver of another family, an image or mask that does not fit.
        """
        id2label = self.config.id2label
        ids = class_ids(class_label, num_images, id2label, knows_no_class=self.denoiser.config.knows_no_class)
        how = self.check_sampling(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            solver=solver,
        )
        scheduler = how.scheduler
        scheduler.set_timesteps(num_inference_steps)  # on the CPU: it computes with single numbers
        generators = image_generators(generator, len(ids))
        options = {"eta": eta, "generator": generators} if isinstance(scheduler, DDIMScheduler) else {}
        device, decoded = self._execution_device, self.tokenizer.dtype  # once: diffusers looks at every module for them
        noise = self._noise(generators, device)
        walk = _Walk(self, scheduler, how.guidance, self._labels(ids, device), options)
        known = known_part(image, mask, len(ids), self.tokenizer)
        latents = walk.sample(noise()) if known is None else self._complete(walk, known, resamplings, noise)
        z = self.denoiser.denormalize(latents).to(exact(decoded))
        z_q = (self.tokenizer.quantize(z).z_q if snap else z).to(decoded)
        if output_type == "latent":
            return ImagePipelineOutput(images=z_q)
        images = self.tokenizer.decode(z_q)
        return ImagePipelineOutput(images=finish(images if known is None else known.paste(images), output_type))

    def check_sampling(
        self,
        *,
        num_inference_steps: int = 200,
        guidance_scale: float = 1.0,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        solver: str | None = None,
        eta: float = 0.0,
    ) -> "Denoising":
        """What a call with these options will do.

        Raises:
            TwoStageError: an option that makes no sense, or not with this model.
        """
        guidance = Guidance(scale=guidance_scale, rescale=guidance_rescale, interval=guidance_interval)
        check_guidance(guidance_scale, self.config.id2label, knows_no_class=self.denoiser.config.knows_no_class)
        scheduler = self.scheduler if solver is None else named_solver(solver, self.scheduler)
        check_family(scheduler, self.denoiser)  # a user may have swapped the pipeline's
        check_steps(num_inference_steps, scheduler.config.num_train_timesteps)
        return Denoising(scheduler, guidance)

    def _noise(self, generators: list[torch.Generator], device: torch.device) -> Callable[[], Tensor]:
        """Draws [b, d, h, w] of variance 1, each image's from its own generator."""
        shape = (self.denoiser.config.latent_dim, *[self.denoiser.config.latent_size] * 2)
        dtype = exact(self.denoiser.dtype)

        def draw() -> Tensor:
            noise = torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in generators])
            return noise.to(device, dtype)

        return draw

    def _labels(self, ids: list[int | None], device: torch.device) -> Tensor | None:
        if self.denoiser.config.num_classes is None:
            return None
        null = self.denoiser.null_class
        return torch.tensor([null if i is None else i for i in ids], device=device)

    def _complete(self, walk: "_Walk", known: Known, resamplings: int, noise: Callable[[], Tensor]) -> Tensor:
        if resamplings < 1:
            raise refuse("resamplings", resamplings, "an integer of at least 1")
        start = noise()
        z = self.tokenizer.encode_latents(known.blanked().to(start.device, self.tokenizer.dtype))
        if self.denoiser.config.latents == "quantized":
            z = self.tokenizer.quantize(z).z_q
        drawn = known.latent_mask(self.tokenizer.downsampling).to(start.device)
        return walk.complete(start, self.denoiser.normalize(z.to(start.dtype)), drawn, resamplings, noise)


def exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype of latents for a network of this dtype, never below float32: the rounding of many steps adds up."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Moment:
    """A time of a walk.

    Attributes:
        t: for the scheduler, on the CPU; to look at a number elsewhere would be to wait for all that is computed there.
        asked: the same for the network, on its device.
        noise: how far from clean, 0 to 1.
    """

    t: Tensor
    asked: Tensor
    noise: float


class _Walk:
    """One walk of a batch from noise to latents."""

    def __init__(
        self,
        pipeline: LatentDiffusionPipeline,
        scheduler: Any,
        guidance: Guidance,
        labels: Tensor | None,
        options: dict[str, Any],
    ) -> None:
        self.pipeline, self.denoiser, self.scheduler = pipeline, pipeline.denoiser, scheduler
        self.guidance, self.options, self.dtype = guidance, options, self.denoiser.dtype
        self.labels, self.both = labels, labels
        if labels is not None:
            self.both = torch.cat([labels, torch.full_like(labels, self.denoiser.null_class)])

    def moments(self, device: torch.device) -> list[Moment]:
        """The scheduler's times, from noise to clean."""
        times, last = self.scheduler.timesteps, self.scheduler.config.num_train_timesteps
        return [Moment(t, asked, float(t) / last) for t, asked in zip(times, times.to(device))]

    def sample(self, noise: Tensor) -> Tensor:
        """Normalised latents [b, d, h, w] out of noise of variance 1."""
        latents = noise * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for moment in self.pipeline.progress_bar(self.moments(noise.device)):
            latents = self.step(latents, moment)
        return latents

    def step(self, latents: Tensor, moment: Moment) -> Tensor:
        """One denoising step."""
        t, scheduler = moment.t, self.scheduler
        x = scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents
        return scheduler.step(self.predict(x, moment), t, latents, return_dict=False, **self.options)[0]

    def predict(self, x: Tensor, moment: Moment) -> Tensor:
        """The guided prediction for noisy latents at that time; "no class" is asked for only where it is needed."""
        if not self.guidance.acts(moment.noise):
            return self.ask(x, moment, self.labels)
        return self.guidance.combine(*self.ask(torch.cat([x, x]), moment, self.both).chunk(2))

    def ask(self, x: Tensor, moment: Moment, labels: Tensor | None) -> Tensor:
        """The network's prediction, in the dtype of x."""
        return self.denoiser(x.to(self.dtype), moment.asked, labels).to(x.dtype)

    def complete(
        self, latents: Tensor, clean: Tensor, drawn: Tensor, resamplings: int, noise: Callable[[], Tensor]
    ) -> Tensor:
        """RePaint, Algorithm 1: the known part is noised from `clean`, the drawn part denoised; steps are repeated."""
        moments = self.moments(clean.device)
        levels = [noise_level(self.scheduler, moment.t) for moment in moments]
        for i, moment in enumerate(self.pipeline.progress_bar(moments)):
            for again in reversed(range(resamplings if i + 1 < len(moments) else 1)):
                signal, deviation = levels[i]
                latents = torch.where(drawn, latents, signal * clean + deviation * noise())
                if hasattr(self.scheduler, "_step_index"):
                    self.scheduler._step_index = None  # a step that is repeated is found by its time again
                latents = self.step(latents, moment)
                if again:
                    kept = signal / levels[i + 1][0]
                    added = max(0.0, deviation**2 - (kept * levels[i + 1][1]) ** 2) ** 0.5
                    latents = kept * latents + added * noise()
        return torch.where(drawn, latents, clean)
