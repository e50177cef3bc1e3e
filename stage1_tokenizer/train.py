"""`twostage train tokenizer`: the loss of stage one, its warm start, and what the run leaves behind."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from stage1_tokenizer.adversarial import Adversary, last_layer
from stage1_tokenizer.config import LossConfig, TokenizerConfig, WarmStart
from stage1_tokenizer.finetune import inherit_discriminator, inherit_tokenizer
from stage1_tokenizer.health import CodebookHealth, advice
from stage1_tokenizer.losses import Likeness, data_variance
from stage1_tokenizer.quantizers.base import QuantizerOutput, forget_moved
from stage1_tokenizer.report import Pictures
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.config import claim_run
from twostage.data.images import ImageDataset
from twostage.data.loader import Order, mix, training_batches
from twostage.models import save_model
from twostage.training.loop import fit, make_accelerator
from twostage.training.noise import rand_rows
from twostage.training.task import LogLine, Progress, StepOutput, Task


class TokenizerTask(Task):
    """Reconstruct images through the codebook, and against a discriminator if there is one.

        L = L_rec(x, x_hat) + L_quantizer + L_adversarial,   L_rec by default mse(x, x_hat) / var(x)

    With a warm start the first steps leave the quantiser out; then the codebook becomes the k-means centroids of
    the encoder's features, and training goes on through it.

    Args:
        model: the tokenizer.
        variance: of the data, in [-1, 1].
        warm_start: how many steps without the quantiser.
        sample_features: gives so many features [n, d] of the training data, as the encoder sees them now.
        seed: decides the start of k-means.
        loss: what L_rec and L_adversarial are; by default the former alone.
        mirror: whether each image is mirrored with probability 1/2.
    """

    model: VQTokenizer

    def __init__(
        self,
        model: VQTokenizer,
        variance: float,
        warm_start: WarmStart | None = None,
        sample_features: Callable[[VQTokenizer, int], Tensor] | None = None,
        seed: int = 0,
        loss: LossConfig | None = None,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.seed, self.mirror = model, seed, mirror
        self.warm_start, self.sample_features = warm_start, sample_features
        self.quantized = True
        loss = loss or LossConfig()
        name = model.config["quantizer_config"]["name"]
        self.health = CodebookHealth(model.quantizer, advice(name, warm_start=warm_start is not None))
        self.likeness = Likeness(loss, variance)
        self.adversary = Adversary(loss.adversarial, model.config["channels"]) if loss.adversarial is not None else None

    def players(self) -> list[nn.Module]:
        return [self.model] if self.adversary is None else [self.model, self.adversary]

    def before_step(self, progress: Progress) -> None:
        self.model.quantizer.set_progress(progress.step, progress.epoch)
        if self.adversary is not None:
            self.adversary.set_progress(progress)
        if self.warm_start is None:
            return
        self.quantized = progress.step >= self.warm_start.steps
        if progress.step == self.warm_start.steps:
            self.start_codebook(self.warm_start.features)

    def before_descent(self, optimizer: Optimizer) -> None:
        forget_moved(self.model.quantizer, optimizer)

    def start_codebook(self, count: int) -> None:
        """Set the codebook to the k-means centroids of `count` features."""
        assert self.sample_features is not None
        features = self.sample_features(self.model, count)
        self.model.quantizer.start_codebook(features, torch.Generator(features.device).manual_seed(self.seed))
        self.health.follow(self.model.quantizer)

    def log_line(self, step: int) -> LogLine:
        return self.health.log_line(self.model.quantizer, step)

    def forward(self, batch: dict[str, Any]) -> StepOutput:
        images = mirrored(batch["images"]) if self.mirror else batch["images"]
        z = self.model.encode_latents(images)
        quantized = self.model.quantize(z) if self.quantized else None
        reconstructions = self.model.decode(z if quantized is None else quantized.z_q)
        likeness = self.likeness(images, reconstructions)
        terms: list[StepOutput | QuantizerOutput] = [likeness]
        if quantized is not None:
            terms.append(quantized)
            self.health.count(self.model.quantizer, quantized.codes)
        if self.adversary is not None:
            layer = last_layer(self.model.autoencoder.decoder)
            terms.append(self.adversary(images, reconstructions, likeness.loss, layer))
        return StepOutput(
            loss=torch.stack([term.loss for term in terms]).sum(),
            metrics={name: value for term in terms for name, value in term.metrics.items()},
        )


def mirrored(images: Tensor) -> Tensor:
    """Each image [b, c, H, W] as it is or mirrored, with equal chances."""
    return torch.where(rand_rows(images, 1, 1, 1) < 0.5, images.flip(-1), images)


def train(config: TokenizerConfig, dataset: ImageDataset, run: Path, start: VQTokenizer | None = None) -> VQTokenizer:
    """Train, or go on training, the tokenizer of `config` in the folder `run`; returns it, also saved there.

    Args:
        start: the tokenizer at `config.start_from`, needed only as long as the run has no checkpoint.

    Raises:
        TwoStageError: the run cannot start from `start`, or the folder holds another run.
    """
    torch.manual_seed(config.training.seed)
    accelerator = make_accelerator(config.training)
    model = VQTokenizer(**config.model_options(dataset.channels))
    if start is not None:
        inherit_tokenizer(model, start, str(config.start_from))
    task = TokenizerTask(
        model,
        variance=data_variance(dataset),
        warm_start=config.warm_start,
        sample_features=FeatureSampler(dataset, accelerator, config.training.seed),
        seed=config.training.seed,
        loss=config.loss,
        mirror=config.mirror,
    )
    if start is not None and task.adversary is not None:
        inherit_discriminator(task.adversary, Path(str(config.start_from)))
    claim_run(run, config, TokenizerConfig.PLACES.__contains__)
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
