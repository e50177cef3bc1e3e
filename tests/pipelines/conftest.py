"""Small pipelines with random weights: enough to test what a pipeline promises."""

import pytest
import torch


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
    from stage2_ldm.config import DiffusionConfig
    from stage2_ldm.denoiser import LatentDenoiser

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
    return LatentDiffusionPipeline(tokenizer, denoiser.eval(), DiffusionConfig().scheduler(), id2label=names)


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
    prior.backbone.get_input_embeddings().weight.data.mul_(50)
    return AutoregressivePipeline(tokenizer, prior.eval(), id2label=names)


MAKERS = {"ldm": make_ldm, "transformer": make_transformer}


@pytest.fixture(params=list(MAKERS))
def pipeline(request, tokenizer):
    """Each kind of pipeline, class-conditional over three classes."""
    made = MAKERS[request.param](tokenizer, NAMES)
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
