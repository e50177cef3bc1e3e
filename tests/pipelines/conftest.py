"""Small pipelines with random weights, and the whole way through the commands on tiny settings."""

import io
import multiprocessing
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml


@pytest.fixture(scope="session")
def tokenizer():
    from stage1_tokenizer.tokenizer import VQTokenizer

    torch.manual_seed(0)
    tokenizer = VQTokenizer(
        autoencoder_config={"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4},
        quantizer_config={"name": "cvq", "codebook_size": 16, "dim": 4},
        image_size=16,
        channels=3,
    )
    tokenizer.quantizer.codebook.data.normal_()
    return tokenizer.eval()


NAMES = {"0": "cat", "1": "dog", "2": "fish"}


def make_ldm(tokenizer, names):
    from pipelines import LatentDiffusionPipeline
    from stage2_ldm.denoiser import LatentDenoiser
    from stage2_ldm.objectives.diffusion import Diffusion

    torch.manual_seed(1)
    denoiser = LatentDenoiser(
        backbone_config={"name": "unet", "widths": [32], "layers": 1, "attention": [True], "norm_groups": 4},
        latent_size=4,
        latent_dim=4,
        num_classes=len(names) if names else None,
        prediction_type="epsilon",
        latents="quantized",
        latent_mean=[0.1, -0.2, 0.0, 0.3],
        latent_std=[1.0, 2.0, 0.5, 1.5],
    )
    if names:
        denoiser.backbone.class_embedding.weight.data.mul_(30)  # so that an untrained network heeds its label
    return LatentDiffusionPipeline(tokenizer, denoiser.eval(), Diffusion().scheduler(), id2label=names)


def make_transformer(tokenizer, names):
    from pipelines import AutoregressivePipeline
    from stage2_transformer.prior import TransformerPrior

    torch.manual_seed(1)
    prior = TransformerPrior(
        backbone_config={"name": "llama", "layers": 2, "heads": 2, "width": 16},
        codebook_size=16,
        code_shape=[4, 4],
        num_classes=len(names) if names else None,
    )
    for weight in prior.parameters():
        if weight.ndim == 2:
            weight.data.mul_(15)  # so that an untrained network heeds its tokens
    return AutoregressivePipeline(tokenizer, prior.eval(), id2label=names)


MAKERS = {"ldm": make_ldm, "transformer": make_transformer}


@pytest.fixture(params=list(MAKERS))
def pipeline(request, tokenizer):
    """Each kind of pipeline, class-conditional over three classes."""
    made = MAKERS[request.param](tokenizer, NAMES)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def ldm(tokenizer):
    """A latent diffusion pipeline over three classes."""
    made = make_ldm(tokenizer, NAMES)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def transformer(tokenizer):
    """An autoregressive pipeline over three classes."""
    made = make_transformer(tokenizer, NAMES)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(params=list(MAKERS))
def unconditional(request, tokenizer):
    """Each kind of pipeline, without classes."""
    made = MAKERS[request.param](tokenizer, None)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def quick(pipeline):
    """Call options that keep a latent diffusion pipeline short."""
    return {"num_inference_steps": 3} if hasattr(pipeline, "denoiser") else {}


PIXELS = """
from torch import nn

class Pixels(nn.Module):
    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)

def pixels():
    return Pixels()
"""


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """What `--network` takes for a network whose features are an image's four quarters."""
    file = tmp_path_factory.mktemp("pixels") / "network.py"
    file.write_text(PIXELS)
    return f"{file}:pixels"


@dataclass(frozen=True)
class Answer:
    """What a command left on the terminal."""

    status: int
    out: str
    err: str

    def assert_refused(self, *words):
        """One line that has every word; exit status 2, nothing done."""
        assert self.status == 2, self
        assert len(self.err.splitlines()) == 1, self.err
        assert self.err.startswith("twostage: ")
        for word in words:
            assert str(word) in self.err
        assert "done" not in self.out


def call(*arguments):
    """Run `twostage ARGUMENTS` in this process."""
    from pipelines.cli import main

    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["twostage", *map(str, arguments)])
        try:
            main()
            status = 0
        except SystemExit as exit_:
            status = exit_.code or 0
    return Answer(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def command(tmp_path_factory):
    """`command("train", ...)`, on a machine without published weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch_home")))
        yield call


DATA = {"name": "shapes", "image_size": 16, "count": 96}
OPTIMIZER = {"learning_rate": 1e-3, "warmup_steps": 2}
TRAINING = {"steps": 8, "batch_size": 16, "checkpoint_every": 3, "log_every": 2}


@dataclass(frozen=True)
class Chain:
    """The whole way through the commands, once: run folders below `folder`, and each command's answer."""

    folder: Path
    answers: dict[str, Answer] = field(default_factory=dict)

    def __truediv__(self, name):
        return self.folder / name

    def config(self, name):
        return self / f"{name}.yaml"


@pytest.fixture(scope="session")
def configs(tmp_path_factory):
    """A folder with tokenizer.yaml, ldm.yaml and transformer.yaml, as small as they can be; nothing is trained."""
    folder = tmp_path_factory.mktemp("chain")
    frozen = {"codes": str(folder / "codes"), "tokenizer": str(folder / "tokenizer")}
    values = {
        "tokenizer": {
            "data": DATA,
            "autoencoder": {"name": "vqvae", "width": 8, "residual_blocks": 1, "residual_width": 4},
            "quantizer": {"name": "cvq", "codebook_size": 16, "dim": 4, "distance": "l2"},
            "warm_start": {"steps": 3, "features": 200},
            "optimizer": OPTIMIZER,
            "training": TRAINING,
        },
        "ldm": {
            **frozen,
            "denoiser": {
                "name": "unet",
                "widths": [8],
                "layers": 1,
                "attention": [True],
                "head_dim": 8,
                "norm_groups": 4,
            },
            "objective": {"name": "diffusion", "timesteps": 20},
            "optimizer": OPTIMIZER,
            "training": {**TRAINING, "ema_decay": 0.9},
        },
        "transformer": {
            **frozen,
            "prior": {"name": "gpt2", "layers": 1, "heads": 2, "width": 16},
            "optimizer": OPTIMIZER,
            "training": TRAINING,
        },
    }
    for name, value in values.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(value))
    return Chain(folder)


@pytest.fixture(scope="session")
def chain(configs, command):
    """The configs with everything trained, encoded, sampled and evaluated from them."""

    def do(name, *arguments):
        answer = configs.answers[name] = command(*arguments)
        assert answer.status == 0, f"{name}: {answer.err}"

    def train(stage, run, *options):
        do(run, "train", stage, configs.config(stage), "--output", configs / run, *options)

    train("tokenizer", "tokenizer")
    do("codes", "encode", "--tokenizer", configs / "tokenizer", "--output", configs / "codes")
    do("latents", "encode", "--tokenizer", configs / "tokenizer", "--output", configs / "latents", "--latents")
    train("ldm", "ldm")
    train("ldm", "continuous", "--set", "latents=continuous", "--set", f"codes={configs / 'latents'}")
    train("ldm", "unconditional", "--set", "conditional=false", "--set", "training.steps=2")
    train("transformer", "transformer")
    few = {"ldm": ["--steps", 3], "continuous": ["--steps", 3], "transformer": []}
    labels = ["--class-label", "star", "--class-label", 0, "--num-images", 2]
    for prior, steps in few.items():
        do(f"sample {prior}", "sample", configs / prior, "--output", configs / f"{prior}_samples", *labels, *steps)
    do("evaluate tokenizer", "evaluate", "reconstruction", configs / "tokenizer")
    for prior in ("ldm", "transformer"):
        do(f"evaluate {prior}", "evaluate", "generation", configs / prior, "--num-images", 12, *few[prior])
    return configs


@pytest.fixture
def untouched(tmp_path):
    """Where nothing is, and nothing may be afterwards."""
    untouched = tmp_path / "untouched"
    yield untouched
    assert not untouched.exists()
    assert not list(tmp_path.glob(".untouched*"))


@pytest.fixture
def contents():
    """A folder -> every path below it, with what a file holds."""

    def read(folder):
        return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}

    return read


@pytest.fixture
def forked():
    """(function, *arguments, copies) -> the exit statuses of so many processes that have what is imported already."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process has no others

    def run(function, *arguments, copies=((),)):
        fork = multiprocessing.get_context("fork").Process
        processes = [fork(target=function, args=(*arguments, *copy)) for copy in copies]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        return [process.exitcode for process in processes]

    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def two_processes(forked):
    """(file that is not there yet, function) -> run it on each of two processes that know of one another."""

    def share(place, function, rank):
        from torch import distributed

        distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
        function()

    def run(place, function):
        assert forked(share, place, function, copies=[(0,), (1,)]) == [0, 0]

    return run
