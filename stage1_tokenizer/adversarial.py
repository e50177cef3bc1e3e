"""The tokenizer against a discriminator: "Taming Transformers for High-Resolution Image Synthesis" (2021).

    L = L_rec + w s lambda L_G + L_D,   lambda = min(|grad L_rec| / (|grad L_G| + delta), limit)          (Eqs. 6, 7)

with the gradients at the last layer of the decoder, w the weight and s the share, which starts at 0. L_G moves the
tokenizer alone and L_D the discriminator alone, so that one backward pass through their sum serves both players; Adam
treats every parameter by itself, so one optimiser over all of them is two optimisers of one rate, both stepping from
the same reconstructions. (The published training steps the tokenizer first, then shows its new reconstructions to the
discriminator.)

What ruins reconstructions when a discriminator starts: lambda gives its opinion nearly the weight of L_rec, when the
opinion is still random; and the less the discriminator tells images apart, the smaller |grad L_G| and the larger
lambda. Hence three remedies. The discriminator first learns alone (warm-up), then its voice rises from nothing (ramp),
and lambda has a limit (the published code: 10^4). docs/adversarial.md has the figures.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stage1_tokenizer.config import AdversarialLoss
from stage1_tokenizer.discriminator import LeCAM, PatchGAN, discriminator_hinge, generator_hinge
from stage1_tokenizer.quantizers.base import full_precision
from twostage.training.distributed import sum_over_processes, world_size
from twostage.training.task import Progress, StepOutput

DELTA = 1e-4
"""Of lambda, as in the published code (the paper: 1e-6); it matters only where the limit does."""


class Adversary(nn.Module):
    """The discriminator, when it learns, and how much of its judgement the tokenizer feels.

    Args:
        options: of the loss; see there.
        channels: of the images.

    Attributes:
        learns: whether the discriminator has started. Before, nothing of it is computed.
        share: s, 0 until its warm-up is over, then rising linearly to 1.
    """

    def __init__(self, options: AdversarialLoss, channels: int) -> None:
        super().__init__()
        self.options = options
        self.discriminator = PatchGAN(channels, options.layers, options.width, options.normalization)
        self.lecam = LeCAM() if options.lecam_weight else None
        self.learns, self.share = False, 0.0

    def set_progress(self, progress: Progress) -> None:
        """Told before every step; everything follows from the step, counted from the start of the run."""
        start, heard, full = self.options.milestones(progress.steps)
        self.learns = progress.step >= start
        self.share = min(1.0, max(0.0, (progress.step + 1 - heard) / (full + 1 - heard)))

    def forward(self, images: Tensor, reconstructions: Tensor, likeness: Tensor, last_layer: Tensor) -> StepOutput:
        """Both players' losses, added.

        Args:
            images, reconstructions: [b, c, H, W].
            likeness: L_rec, a scalar with the graph of `reconstructions`.
            last_layer: weight of the decoder's last layer.
        """
        if not self.learns:
            return StepOutput(loss=likeness.new_zeros(()), metrics={})
        real, fake = self.discriminator(images), self.discriminator(reconstructions.detach())
        discriminator = discriminator_hinge(real, fake)
        metrics = {"discriminator": discriminator, "real_logits": real.mean(), "fake_logits": fake.mean()}
        loss = discriminator
        if self.lecam is not None:
            metrics["lecam"] = self.lecam(real, fake)
            loss = loss + self.options.lecam_weight * metrics["lecam"]
        if self.share:
            generator = generator_hinge(self.judge(reconstructions))
            weight = adaptive_weight(likeness, generator, last_layer, self.options.max_adaptive_weight)
            metrics |= {"generator": generator, "adaptive_weight": weight}
            loss = loss + self.options.weight * self.share * weight * generator
        return StepOutput(loss=loss, metrics={name: value.detach() for name, value in metrics.items()})

    def judge(self, reconstructions: Tensor) -> Tensor:
        """The discriminator's logits, whose gradient reaches the reconstructions but not the discriminator."""
        frozen = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, frozen, (reconstructions,))


def adaptive_weight(likeness: Tensor, generator: Tensor, layer: Tensor, limit: float) -> Tensor:
    """lambda, a scalar without gradient, the same on every process: the norms are of gradients of the whole batch.

    With gradient accumulation it is that of each micro-batch.
    """
    gradients = torch.stack([torch.autograd.grad(loss, layer, retain_graph=True)[0] for loss in (likeness, generator)])
    gradients = full_precision(sum_over_processes(gradients) / world_size())
    likeness_norm, generator_norm = gradients.flatten(1).norm(dim=1)
    return (likeness_norm / (generator_norm + DELTA)).clamp(max=limit)


def last_layer(decoder: nn.Module) -> Tensor:
    """The weight of a decoder's last convolution, in the order in which its layers were made."""
    return [layer for layer in decoder.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1].weight
