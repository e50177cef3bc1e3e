"""What a step of a quantiser costs: against one matrix product, against vector-quantize-pytorch, in a small VQ-VAE.

    python benchmarks/quantizers.py [--quick] [--threads 2] [--busy] [--output results.json]

A step is forward and backward in float32. The steps of a comparison take turns, and of each its fastest run counts:
what else the machine does slows all of them, but not in the same turn. On a machine that is never idle, `--busy`
counts the processor's time on one thread in place of the wall clock's. Memory is the peak of a process of its own
above what it held before its first step (on Linux).
"""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from timing import Row, Step, Watch, run
from torch import Tensor, nn

from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.quantizers import QUANTIZERS, contrastive
from stage1_tokenizer.quantizers.base import Quantizer
from stage1_tokenizer.quantizers.cvq import CVQ
from stage1_tokenizer.quantizers.nearest import nearest

SIZES = [(16384, 512, 64), (4096, 1024, 256), (4096, 8192, 64)]
"""N features, K codes, d."""

SEARCH = (65536, 262144, 8)
IMAGES, CHANNELS, IMAGE_SIZE = 64, 3, 32
PEER = "vector-quantize-pytorch"
PEERS = {"vq": "VectorQuantize, learnable codebook", "ema": "VectorQuantize, EMA", "simvq": "SimVQ"}
"""Our quantiser -> its counterpart there, in its fastest setting: no rotation trick, no restarts, no k-means."""

HAS_PEER = util.find_spec("vector_quantize_pytorch") is not None
STATUS = Path("/proc/self/status")


def peak(step: Step) -> float:
    """MiB of this process at its largest during a step, above what it holds now."""
    if not STATUS.exists():
        return float("nan")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident("VmRSS")
    step()
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """A line of this process's status, in MiB."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1024


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def latents(count: int, dim: int) -> Tensor:
    """An encoder's output, [count / 64, dim, 8, 8]."""
    return torch.randn(count // 64, dim, 8, 8, requires_grad=True)


def build(name: str, codebook_size: int, dim: int, average_usage: float | None = None, **options: Any) -> Quantizer:
    """A quantiser whose codes lie among the features; cvq meets the same usage of every code in every step, 1 / K."""
    quantizer = QUANTIZERS.build({"name": name, "codebook_size": codebook_size, "dim": dim, **options})
    if quantizer.learns_codebook:
        quantizer.initialize_codebook(torch.randn_like(quantizer.codebook))
    if isinstance(quantizer, CVQ):
        usage = 1 / codebook_size if average_usage is None else average_usage

        def before(module: nn.Module, _: Any) -> None:
            quantizer.average_usage.fill_(usage)

        quantizer.register_forward_pre_hook(before)
    return quantizer


def step_of(module: nn.Module, z: Tensor, outcome: Callable[[Any], tuple[Tensor, Tensor]]) -> Step:
    """A training step of a module on z; `outcome` takes z_q and the loss from what it returns."""
    upstream = torch.randn_like(z)

    def step() -> None:
        z.grad = None
        module.zero_grad()
        z_q, loss = outcome(module(z))
        torch.autograd.backward([z_q, loss], [upstream, None])

    return step


def our_step(quantizer: Quantizer, z: Tensor) -> Step:
    return step_of(quantizer, z, lambda output: (output.z_q, output.loss))


def peer_step(name: str, z: Tensor, codebook_size: int) -> Step:
    """The counterpart of our quantiser `name` in vector-quantize-pytorch."""
    from vector_quantize_pytorch import SimVQ, VectorQuantize

    dim = z.shape[1]
    if name == "simvq":
        peer = SimVQ(dim, codebook_size, channel_first=True, rotation_trick=False)
    else:
        learned = name == "vq"
        own = {"learnable_codebook": learned, "ema_update": not learned, "decay": 0.99, "rotation_trick": False}
        peer = VectorQuantize(dim, codebook_size, accept_image_fmap=True, commitment_weight=0.25, **own)
        peer._codebook.embed.data.normal_()
    return step_of(peer, z, lambda output: (output[0], output[2]))


def with_exact_contrastive_term(step: Step) -> Step:
    def exactly() -> None:
        sampled, contrastive.EXACT_WORK = contrastive.EXACT_WORK, 2**62
        step()
        contrastive.EXACT_WORK = sampled

    return exactly


def against_a_product(count: int, size: int, dim: int, watch: Watch) -> list[Row]:
    """Our steps as multiples of the product of all features with all codes."""
    z = latents(count, dim)
    rows, codebook = torch.randn(count, dim), torch.randn(size, dim)
    held = torch.empty(count, size)
    steady = our_step(build("cvq", size, dim), z)
    steps = {
        "z @ codebook.T": lambda: rows @ codebook.T,
        "z @ codebook.T, memory held": lambda: torch.mm(rows, codebook.T, out=held),
        "code search": lambda: nearest(rows, codebook, "l2"),
        "vq": our_step(build("vq", size, dim), z),
        "cvq": steady,
        "cvq, no contrastive term": our_step(build("cvq", size, dim, contrastive_weight=0.0), z),
        "cvq, all codes unused so far": our_step(build("cvq", size, dim, average_usage=0.0), z),
        "cvq, exact contrastive term": with_exact_contrastive_term(steady),
    }
    times = watch.fastest(steps)
    return [
        {
            "N, K, d": f"{count:,}, {size:,}, {dim}",
            "step": name,
            "ms": taken,
            "x product": taken / times["z @ codebook.T"],
            "x product, memory held": taken / times["z @ codebook.T, memory held"],
        }
        for name, taken in times.items()
    ]


def peak_of_steps(name: str, peer: bool, count: int, size: int, dim: int, threads: int) -> float:
    """MiB that three steps need at most, their gradients included."""
    torch.set_num_threads(threads)
    z = latents(count, dim)
    step = peer_step(name, z, size) if peer else our_step(build(name, size, dim), z)
    return peak(lambda: [step() for _ in range(3)])


def against_the_peer(name: str, count: int, size: int, dim: int, watch: Watch) -> Row:
    z = latents(count, dim)
    steps = {"ours": our_step(build(name, size, dim), z), "peer": peer_step(name, z, size)}
    times = watch.fastest(steps)
    memory = [alone(peak_of_steps, name, peer, count, size, dim, watch.threads) for peer in (False, True)]
    return {
        "N, K, d": f"{count:,}, {size:,}, {dim}",
        "ours": name,
        "peer": PEERS[name],
        "ours, ms": times["ours"],
        "peer, ms": times["peer"],
        "times faster": times["peer"] / times["ours"],
        "ours, MiB": memory[0],
        "peer, MiB": memory[1],
    }


def search(threads: int) -> Row:
    """The largest code search."""
    torch.set_num_threads(threads)
    count, size, dim = SEARCH
    rows, codebook = torch.randn(count, dim), torch.randn(size, dim)
    nearest(rows[:64], codebook[:64], "l2")
    start = time.perf_counter()
    above = peak(lambda: nearest(rows, codebook, "l2"))
    return {"N, K, d": f"{count:,}, {size:,}, {dim}", "s": time.perf_counter() - start, "MiB above the inputs": above}


class Autoencoder(nn.Module):
    """The small VQ-VAE with a quantiser between its halves, or with nothing there."""

    def __init__(self, quantizer: Quantizer | None, dim: int) -> None:
        super().__init__()
        self.halves = AUTOENCODERS.build({"name": "vqvae"}, channels=CHANNELS, latent_dim=dim)
        self.quantizer = quantizer

    def forward(self, images: Tensor) -> Tensor:
        z = self.halves.encode(images)
        if self.quantizer is None:
            return (self.halves.decode(z) - images).square().mean()
        output = self.quantizer(z)
        return (self.halves.decode(output.z_q) - images).square().mean() + output.loss


def training_step(quantizer: Quantizer | None, dim: int) -> Step:
    model = Autoencoder(quantizer, dim)
    images = torch.rand(IMAGES, CHANNELS, IMAGE_SIZE, IMAGE_SIZE) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        model(images).backward()
        optimizer.step()

    return step


def throughput(size: int, dim: int, watch: Watch) -> list[Row]:
    """Training the whole small VQ-VAE, images a second."""
    steps = {"none": training_step(None, dim)} | {
        name: training_step(build(name, size, dim), dim) for name in QUANTIZERS if name != "fsq" or HAS_PEER
    }
    steps["cvq, all codes unused so far"] = training_step(build("cvq", size, dim, average_usage=0.0), dim)
    times = watch.fastest(steps)
    return [
        {
            "quantiser": name,
            "K, d": f"{size}, {dim}",
            "images/s": 1000 * IMAGES / taken,
            "s/step": taken / 1000,
            "of none": times["none"] / taken,
        }
        for name, taken in times.items()
    ]


def measure(watch: Watch, console: Console) -> dict[str, list[Row]]:
    """Title of a table -> its rows."""
    found = {
        "Steps as multiples of one matrix product": [
            row for size in track(SIZES, "products", console=console) for row in against_a_product(*size, watch)
        ],
        "The largest code search": [alone(search, watch.threads)],
        f"Training the small VQ-VAE, {IMAGES} images of {IMAGE_SIZE}x{IMAGE_SIZE} a step": throughput(512, 64, watch),
    }
    if HAS_PEER:
        pairs = [(name, size) for name in PEERS for size in SIZES]
        rows = [against_the_peer(name, *size, watch) for name, size in track(pairs, "peers", console=console)]
        return found | {f"Steps against {PEER}": rows}
    console.print(f"{PEER} is not installed: no comparison with it. pip install {PEER}")
    return found


if __name__ == "__main__":
    run(__doc__, measure, repetitions=50, **{PEER: metadata.version(PEER) if HAS_PEER else "not installed"})
