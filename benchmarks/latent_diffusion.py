"""What latent diffusion costs beside its network: in sampling, in training, and with the options that save time.

    python benchmarks/latent_diffusion.py [--quick] [--threads 2] [--busy] [--output results.json]

The steps of a comparison take turns, and of each its fastest run counts: what else the machine does slows all of them,
but not in the same turn. On a machine that is never idle, `--busy` counts the processor's time on one thread in place
of the wall clock's.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from timing import Row, Step, Watch, run
from torch import Tensor, nn

from pipelines import LatentDiffusionPipeline
from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.encode import encode
from stage1_tokenizer.tokenizer import VQTokenizer
from stage2_ldm.backbones import BACKBONES
from stage2_ldm.denoiser import LatentDenoiser
from stage2_ldm.objectives import OBJECTIVES
from stage2_ldm.train import LDMTask, drop_labels
from twostage.data.codes import FrozenCodes
from twostage.data.loader import Order, training_batches
from twostage.data.shapes import Shapes
from twostage.models import fingerprint
from twostage.training.loop import COMPILERS

LABELS, STEPS = list(range(8)), 20
CLASSES, DROPOUT = 10, 0.1
COMPILER = any(map(shutil.which, COMPILERS))
UNET = {"name": "unet", "layers": 1, "head_dim": 32}
COMPILED = ("UNet of the quickstart, 8x8x4", "DiT, 8x8x4, flow")
"""To compile a network takes a minute or more on a CPU, so one of each kind."""


@dataclass(frozen=True)
class Model:
    """A tokenizer and a denoiser over its latents.

    Attributes:
        image_size: of square images with three channels.
        dim: d of the latents.
        batch: images of a training step.
    """

    tokenizer: dict[str, Any]
    image_size: int
    dim: int
    denoiser: dict[str, Any]
    objective: dict[str, Any]
    batch: int = 32

    @property
    def images(self) -> int:
        """To train on."""
        return 8 * self.batch

    def build(self) -> tuple[VQTokenizer, LatentDenoiser]:
        quantizer = {"name": "vq", "codebook_size": 512, "dim": self.dim}
        autoencoder = AUTOENCODERS.resolve(self.tokenizer, "autoencoder")
        tokenizer = VQTokenizer(autoencoder, quantizer, self.image_size, 3).eval().requires_grad_(False)
        denoiser = LatentDenoiser(
            backbone_config=BACKBONES.resolve(self.denoiser, "denoiser"),
            latent_size=tokenizer.latent_size,
            latent_dim=self.dim,
            num_classes=CLASSES,
            prediction_type=OBJECTIVES.build(self.objective).prediction_type,
            latents="quantized",
            latent_mean=[0.0] * self.dim,
            latent_std=[1.0] * self.dim,
        )
        return tokenizer, denoiser


SMALL, V = {"name": "vqvae"}, {"name": "diffusion", "prediction_type": "v_prediction"}
MODELS = {
    "UNet of docs/fashion_mnist.md, 7x7x64": Model(
        SMALL, 28, 64, {**UNET, "widths": [128], "attention": [True], "norm_groups": 16}, V
    ),
    "UNet of the quickstart, 8x8x4": Model(
        SMALL, 32, 4, {**UNET, "widths": [64, 128], "attention": [True, True], "norm_groups": 8}, V
    ),
    "UNet, 16x16x4": Model(SMALL, 64, 4, {**UNET, "widths": [64, 128, 256]}, V),
    "DiT, 8x8x4, flow": Model(SMALL, 32, 4, {"name": "dit", "layers": 4, "width": 192, "heads": 3}, {"name": "flow"}),
}

LARGE = {
    "UNet of FFHQ, 64x64x3 of a VQGAN's f4": Model(
        {"name": "vqgan", "preset": "f4"}, 256, 3, {"name": "unet", "preset": "ffhq"}, {"name": "diffusion"}, batch=1
    )
}
"""Of the published size, only for what takes few steps."""


def pipeline_of(model: Model) -> LatentDiffusionPipeline:
    tokenizer, denoiser = model.build()
    names = {str(i): str(i) for i in range(CLASSES)}
    scheduler = OBJECTIVES.build(model.objective).scheduler()
    pipeline = LatentDiffusionPipeline(tokenizer, denoiser.eval(), scheduler, names)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def forwards(denoiser: LatentDenoiser, rows: int) -> None:
    """The network alone, as often as it is asked in a call."""
    size = denoiser.config["latent_size"]
    x, labels = torch.randn(rows, denoiser.config["latent_dim"], size, size), torch.zeros(rows, dtype=torch.int64)
    for t in torch.arange(STEPS):
        denoiser(x, t, labels)


CALLS: dict[str, dict[str, Any]] = {
    "no guidance": {},
    "guidance": {"guidance_scale": 2.0},
    "guidance in half of the way": {"guidance_scale": 2.0, "guidance_interval": (0.25, 0.75)},
}
GUIDED = {"no guidance": 0.0, "guidance": 1.0, "guidance in half of the way": 0.5}
"""In which share of the steps the network is asked twice."""


def free(latents: Tensor, timesteps: Tensor, class_label: Tensor | None) -> Any:
    """A network that costs nothing."""
    return SimpleNamespace(sample=latents)


def sampling(name: str, watch: Watch) -> list[Row]:
    """The call of a pipeline, as many forwards of its network, and the call with a network that costs nothing."""
    pipeline = pipeline_of(MODELS[name])
    without = pipeline_of(MODELS[name])
    without.denoiser.backbone.forward = free
    z = pipeline(LABELS, num_inference_steps=1, output_type="latent").images

    def calls(pipeline: LatentDiffusionPipeline, kind: str) -> dict[str, Step]:
        asked = partial(pipeline, LABELS, num_inference_steps=STEPS, output_type="pt")
        return {f"{kind}, {call}": partial(asked, **options) for call, options in CALLS.items()}

    times = watch.fastest(
        {
            "once": partial(forwards, pipeline.denoiser, len(LABELS)),
            "twice": partial(forwards, pipeline.denoiser, 2 * len(LABELS)),
            "decoding": partial(decoded, pipeline.tokenizer, z),
            **calls(pipeline, "real"),
            **calls(without, "free"),
        }
    )
    rows = []
    for call, guided in GUIDED.items():
        bare = (1 - guided) * times["once"] + guided * times["twice"]
        own = times[f"free, {call}"] - times["decoding"]
        parts = {"call, ms": times[f"real, {call}"], "forwards, ms": bare, "decoding, ms": times["decoding"]}
        rows.append({"network": name, "call": call, **parts, "the rest, ms": own, "% of forwards": 100 * own / bare})
    return rows


@torch.no_grad()
def decoded(tokenizer: VQTokenizer, z: Tensor) -> Tensor:
    return tokenizer.decode(tokenizer.quantize(z).z_q)


Loss = Callable[[dict[str, Tensor]], Tensor]


class Training:
    """Steps of training, as the loop takes them.

    Args:
        loss: of a batch of the data set.
    """

    def __init__(self, model: nn.Module, loss: Loss, dataset: Shapes | FrozenCodes, batch: int) -> None:
        order = Order(count=len(dataset), batch_size=batch, steps=10**6)
        self.model, self.loss, self.batches = model.train(), loss, training_batches(dataset, order, 0)
        self.optimizer = torch.optim.AdamW(model.parameters())

    def wait(self) -> dict[str, Tensor]:
        return next(self.batches)

    def step(self) -> None:
        self.loss(self.wait()).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def frozen(model: Model, tokenizer: VQTokenizer, folder: Path) -> FrozenCodes:
    """Codes of shapes and of their mirror images."""
    data = {"name": "shapes", "image_size": model.image_size, "count": model.images}
    encode(tokenizer, data, folder, views="flips", batch_size=model.batch)
    return FrozenCodes(folder, fingerprint(tokenizer))


def training(name: str, watch: Watch) -> list[Row]:
    """Training from frozen codes against training from images, which go through the tokenizer in every step."""
    model = (MODELS | LARGE)[name]
    tokenizer, denoiser = model.build()
    objective = OBJECTIVES.build(model.objective)
    task = LDMTask(denoiser, objective, lambda batch: tokenizer.quantizer.decode(batch["codes"]), DROPOUT)

    def from_images(batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            clean = denoiser.normalize(tokenizer.encode(batch["images"]).z_q)
        return objective.loss(denoiser, clean, drop_labels(denoiser, batch["class_label"], DROPOUT))

    with TemporaryDirectory() as folder:
        written = frozen(model, tokenizer, Path(folder) / "codes")
        codes = Training(denoiser, lambda batch: task(batch).loss, written, model.batch)
        shapes = Shapes("train", image_size=model.image_size, count=model.images)
        images = Training(denoiser, from_images, shapes, model.batch)
        waits = {"codes, waiting": codes.wait, "images, waiting": images.wait}
        times = watch.fastest({"codes": codes.step, "images": images.step, **waits})
    waiting = {f"{kind}, %": 100 * times[kind] / times[kind.split(",")[0]] for kind in waits}
    return [
        {
            "network": name,
            "batch": str(model.batch),
            "frozen codes, ms": times["codes"],
            "images, ms": times["images"],
            "times faster": times["images"] / times["codes"],
            **waiting,
        }
    ]


OPTIONS: dict[str, dict[str, bool]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "precision: bf16": {"bf16": True},
    "both": {"channels_last": True, "bf16": True},
    "compile": {"compile": True},
    "all three": {"channels_last": True, "bf16": True, "compile": True},
}


def option(model: Model, *, channels_last: bool = False, bf16: bool = False, compile: bool = False) -> Training:
    """Steps of training on latents in memory."""
    _, denoiser = model.build()
    if channels_last:
        denoiser.to(memory_format=torch.channels_last)
    if compile:
        denoiser.compile()
    objective, size = OBJECTIVES.build(model.objective), denoiser.config["latent_size"]
    clean, labels = torch.randn(model.batch, model.dim, size, size), torch.arange(model.batch) % CLASSES

    def loss(batch: dict[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return objective.loss(denoiser, clean, labels)

    return Training(denoiser, loss, Shapes("train", image_size=8, count=model.batch), model.batch)


def options(name: str, watch: Watch) -> list[Row]:
    """A training step with each of the options of `training:` that save time."""
    chosen = {name: given for name, given in OPTIONS.items() if COMPILER or "compile" not in given}
    times = watch.fastest({key: option(MODELS[name], **given).step for key, given in chosen.items()})
    return [
        {"network": name, "training": key, "ms": taken, "times faster": times["plain"] / taken}
        for key, taken in times.items()
    ]


PARTS: dict[str, tuple[Callable[[str, Watch], list[Row]], dict[str, Model]]] = {
    f"Sampling {len(LABELS)} images in {STEPS} steps": (sampling, MODELS),
    "Training from frozen codes and from images": (training, MODELS | LARGE),
    "Options of training, batches of 32": (options, {name: MODELS[name] for name in COMPILED}),
}


def measure(watch: Watch, console: Console) -> dict[str, list[Row]]:
    if not COMPILER:
        console.print(f"no C++ compiler ({', '.join(COMPILERS)}): nothing is compiled")
    return {
        title: [row for name in track(models, title, console=console) for row in part(name, watch)]
        for title, (part, models) in PARTS.items()
    }


if __name__ == "__main__":
    run(__doc__, measure, repetitions=20, diffusers=metadata.version("diffusers"))
