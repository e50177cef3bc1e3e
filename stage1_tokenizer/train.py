"""`twostage train tokenizer`: the loss of stage one, its warm start, and what the run leaves behind."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from stage1_tokenizer.config import TokenizerConfig, WarmStart
from stage1_tokenizer.health import CodebookHealth, advice
from stage1_tokenizer.losses import data_variance, scaled_mse
from stage1_tokenizer.report import Pictures
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.config import claim_run
from twostage.data.images import ImageDataset
from twostage.data.loader import Order, mix, training_batches
from twostage.models import save_model
from twostage.training.loop import fit, make_accelerator
from twostage.training.task import LogLine, Progress, StepOutput, Task


class TokenizerTask(Task):
    """Reconstruct images through the codebook.

        L = mse(x, x_hat) / var(x) + L_quantizer

    With a warm start the first steps leave the quantiser out; then the codebook becomes the k-means centroids of
    the encoder's features, and training goes on through it.

    Args:
        model: the tokenizer.
        variance: of the data, in [-1, 1].
        warm_start: how many steps without the quantiser.
        sample_features: gives so many features [n, d] of the training data, as the encoder sees them now.
        seed: decides the start of k-means.
    """

    model: VQTokenizer
    variance: Tensor

    def __init__(
        self,
        model: VQTokenizer,
        variance: float,
        warm_start: WarmStart | None = None,
        sample_features: Callable[[VQTokenizer, int], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.seed = model, seed
        self.warm_start, self.sample_features = warm_start, sample_features
        self.quantized = True
        name = model.config["quantizer_config"]["name"]
        self.health = CodebookHealth(model.quantizer, advice(name, warm_start=warm_start is not None))
        self.register_buffer("variance", torch.tensor(variance))

    def before_step(self, progress: Progress) -> None:
        self.model.quantizer.set_progress(progress.step, progress.epoch)
        if self.warm_start is None:
            return
        self.quantized = progress.step >= self.warm_start.steps
        if progress.step == self.warm_start.steps:
            self.start_codebook(self.warm_start.features)

    def start_codebook(self, count: int) -> None:
        """Set the codebook to the k-means centroids of `count` features."""
        assert self.sample_features is not None
        features = self.sample_features(self.model, count)
        self.model.quantizer.start_codebook(features, torch.Generator(features.device).manual_seed(self.seed))
        self.health.follow(self.model.quantizer)

    def log_line(self, step: int) -> LogLine:
        return self.health.log_line(self.model.quantizer, step)

    def forward(self, batch: dict[str, Any]) -> StepOutput:
        images = batch["images"]
        z = self.model.encode_latents(images)
        if not self.quantized:
            loss = scaled_mse(images, self.model.decode(z), self.variance)
            return StepOutput(loss=loss, metrics={"reconstruction": loss.detach()})
        quantized = self.model.quantize(z)
        self.health.count(self.model.quantizer, quantized.codes)
        reconstruction = scaled_mse(images, self.model.decode(quantized.z_q), self.variance)
        return StepOutput(
            loss=reconstruction + quantized.loss,
            metrics={"reconstruction": reconstruction.detach(), **quantized.metrics},
        )


def train(config: TokenizerConfig, dataset: ImageDataset, run: Path) -> VQTokenizer:
    """Train, or go on training, the tokenizer of `config` in the folder `run`; returns it, also saved there."""
    torch.manual_seed(config.training.seed)
    accelerator = make_accelerator(config.training)
    model = VQTokenizer(**config.model_options(dataset.channels))
    claim_run(run, config, TokenizerConfig.PLACES.__contains__)
    task = TokenizerTask(
        model,
        variance=data_variance(dataset),
        warm_start=config.warm_start,
        sample_features=FeatureSampler(dataset, accelerator, config.training.seed),
        seed=config.training.seed,
    )
    pictures = Pictures(dataset, run)
    refresh = partial(pictures.refresh, model)
    tokenizer = fit(task, dataset, config.training, config.optimizer, run, accelerator, refresh)
    assert isinstance(tokenizer, VQTokenizer)
    if accelerator.is_main_process:
        save_model(tokenizer, run / "tokenizer")
        pictures.draw(tokenizer)
    return tokenizer


class FeatureSampler:
    """Features of a random part of the training data, the same on every process.

    Calling it with a tokenizer and n gives [n, d], or fewer when the data set has fewer.
    """

    def __init__(self, dataset: ImageDataset, accelerator: Accelerator, seed: int) -> None:
        self.dataset, self.device, self.seed = dataset, accelerator.device, seed

    @torch.no_grad()
    def __call__(self, tokenizer: VQTokenizer, count: int) -> Tensor:
        per_image = tokenizer.latent_size**2
        images = min(len(self.dataset), max(-(-count // per_image), count // 16))
        size = min(images, 128)
        order = Order(count=len(self.dataset), batch_size=size, steps=-(-images // size), seed=mix(self.seed, 1))
        generator = torch.Generator().manual_seed(self.seed)
        rows = []
        for batch in training_batches(self.dataset, order, workers=0):
            z = tokenizer.encode_latents(batch["images"].to(self.device)).movedim(1, -1).flatten(0, 2)
            share = min(len(z), -(-count // order.steps))
            rows.append(z[torch.randperm(len(z), generator=generator)[:share].to(z.device)].float())
        return torch.cat(rows)[:count]
