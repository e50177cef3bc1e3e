"""Class agreement: does a generated image look like the class it was asked for, to a small CNN trained on real images?

The classifier sees some of its training images blurred or with noise, so that it judges the softer images of a decoder
by their content.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, default_collate

from twostage.data.images import ImageDataset
from twostage.errors import refuse


class Classifier(nn.Module):
    """Three convolutions at falling resolution, global pooling, one linear layer.

    Args:
        channels: of the images, 1 or 3.
        classes: how many.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(channels, 32), _block(32, 64), _block(64, 128))
        self.head = nn.Linear(128, classes)

    def forward(self, images: Tensor) -> Tensor:
        """images float [b, c, H, W] in [-1, 1], H and W at least 8 -> logits [b, classes]."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees: images as in `forward` -> [b, 128]."""
        return self.body(images).mean(dim=(2, 3))


def _block(fan_in: int, fan_out: int) -> nn.Module:
    convolution = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2))


def _soften(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur each image by a random amount (up to a 3 x 3 mean), then add noise of random deviation (up to 0.2)."""
    amount, size = torch.rand(2, len(images), 1, 1, 1, generator=generator)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    noise = torch.randn(images.shape, generator=generator)
    return torch.lerp(images, blurred, amount) + 0.2 * size**2 * noise


def train_classifier(
    dataset: ImageDataset, *, steps: int = 300, batch_size: int = 64, learning_rate: float = 3e-3, seed: int = 0
) -> Classifier:
    """A `Classifier` trained on random examples of `dataset`, frozen, in eval mode, on the CPU.

    Depends on `seed` only; torch's global random state is left as it was.

    Raises:
        TwoStageError: the data set has fewer than two classes.
    """
    from tqdm import tqdm

    if len(dataset.classes) < 2:
        raise refuse("classes to agree with", len(dataset.classes), "a labelled data set of at least 2 classes")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(dataset.channels, len(dataset.classes))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for _ in tqdm(range(steps), desc="classifier", unit="step", leave=False, delay=2, mininterval=1):
        chosen = torch.randint(len(dataset), (batch_size,), generator=generator)
        batch = default_collate([dataset[index] for index in chosen.tolist()])
        loss = F.cross_entropy(classifier(_soften(batch["images"], generator)), batch["class_label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def class_agreement(classifier: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """The share of images float [n, c, H, W] in [-1, 1] that the classifier gives their label, int64 [n]; in 0..1.

    Raises:
        TwoStageError: no images, or not one label for each.
    """
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise refuse("labels.shape", tuple(labels.shape), f"one label an image, at least one image; got {len(images)}")
    device = next(classifier.parameters()).device
    predicted = [classifier(batch.float().to(device)).argmax(dim=1) for batch in images.split(batch_size)]
    return (torch.cat(predicted).cpu() == labels.cpu()).float().mean().item()


def accuracy(classifier: nn.Module, dataset: ImageDataset, batch_size: int = 256) -> float:
    """The share of the data set's images that the classifier labels right; in 0..1."""
    right = 0.0
    for batch in DataLoader(dataset, batch_size=batch_size, generator=torch.Generator()):
        right += class_agreement(classifier, batch["images"], batch["class_label"]) * len(batch["class_label"])
    return right / len(dataset)
