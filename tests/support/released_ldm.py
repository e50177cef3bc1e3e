"""Latent diffusion models as they were released, small and with random weights."""

import torch
import yaml

from stage1_tokenizer import VQTokenizer

UNET = "ldm.modules.diffusionmodules.openaimodel.UNetModel"
EMBEDDER = "ldm.modules.encoders.modules.ClassEmbedder"
VQ = "ldm.models.autoencoder.VQModelInterface"

UNET_PARAMS = {
    "image_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 32,
}
CONDITION = {"target": EMBEDDER, "params": {"n_classes": 5, "embed_dim": 16, "key": "class_label"}}
ATTENDING = UNET_PARAMS | {"use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 16}
FIRST_STAGE = {
    "target": VQ,
    "params": {
        "embed_dim": 4,
        "n_embed": 16,
        "ddconfig": {
            "ch": 32,
            "ch_mult": [1, 2],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "resolution": 16,
            "in_channels": 3,
            "out_ch": 3,
            "z_channels": 4,
            "double_z": False,
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    },
}
PARAMS = {
    "linear_start": 0.0015,
    "linear_end": 0.0195,
    "timesteps": 100,
    "image_size": 8,
    "channels": 4,
    "monitor": "val/loss",
    "unet_config": {"target": UNET, "params": UNET_PARAMS},
    "cond_stage_config": "__is_unconditional__",
}
CONDITIONAL = PARAMS | {
    "conditioning_key": "crossattn",
    "unet_config": {"target": UNET, "params": ATTENDING},
    "cond_stage_config": CONDITION,
}


def unet_shapes(context=None):
    """The weights of the UNet of `UNET_PARAMS`, or `ATTENDING`, under the names that the published code gives them."""
    shapes = {}

    def put(place, **parts):
        shapes.update({f"model.diffusion_model.{place}.{part}": shape for part, shape in parts.items()})

    def layer(place, *shape):
        put(place, weight=shape, bias=shape[:1])

    def block(place, inputs, outputs):
        layer(f"{place}.in_layers.0", inputs)
        layer(f"{place}.in_layers.2", outputs, inputs, 3, 3)
        layer(f"{place}.emb_layers.1", outputs, 128)
        layer(f"{place}.out_layers.0", outputs)
        layer(f"{place}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f"{place}.skip_connection", outputs, inputs, 1, 1)

    def attention(place):
        layer(f"{place}.norm", 64)
        if context is None:
            layer(f"{place}.qkv", 192, 64, 1)
            layer(f"{place}.proj_out", 64, 64, 1)
            return
        layer(f"{place}.proj_in", 64, 64, 1, 1)
        layer(f"{place}.proj_out", 64, 64, 1, 1)
        inner = f"{place}.transformer_blocks.0"
        for one, width in (("attn1", 64), ("attn2", context)):
            put(f"{inner}.{one}.to_q", weight=(64, 64))
            put(f"{inner}.{one}.to_k", weight=(64, width))
            put(f"{inner}.{one}.to_v", weight=(64, width))
            layer(f"{inner}.{one}.to_out.0", 64, 64)
        layer(f"{inner}.ff.net.0.proj", 512, 64)
        layer(f"{inner}.ff.net.2", 64, 256)
        for norm in ("norm1", "norm2", "norm3"):
            layer(f"{inner}.{norm}", 64)

    layer("time_embed.0", 128, 32)
    layer("time_embed.2", 128, 128)
    layer("input_blocks.0.0", 32, 4, 3, 3)
    block("input_blocks.1.0", 32, 32)
    layer("input_blocks.2.0.op", 32, 32, 3, 3)
    block("input_blocks.3.0", 32, 64)
    attention("input_blocks.3.1")
    block("middle_block.0", 64, 64)
    attention("middle_block.1")
    block("middle_block.2", 64, 64)
    block("output_blocks.0.0", 64 + 64, 64)
    attention("output_blocks.0.1")
    block("output_blocks.1.0", 64 + 32, 64)
    attention("output_blocks.1.1")
    layer("output_blocks.1.2.conv", 64, 64, 3, 3)
    block("output_blocks.2.0", 64 + 32, 32)
    block("output_blocks.3.0", 32 + 32, 32)
    layer("out.0", 32)
    layer("out.2", 4, 32, 3, 3)
    return shapes


def unet(context=None, seed=0, classes=0):
    """Random weights for these names, and those of a class embedding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = unet_shapes(context)
    if classes:
        shapes["cond_stage_model.embedding.weight"] = (classes, context)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def average(weights):
    """What a checkpoint holds of a moving average, with these weights."""
    names = {name: "model_ema." + name.removeprefix("model.").replace(".", "") for name in weights}
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return {names[name]: value for name, value in weights.items()} | counters


def first_stage():
    """Random weights of `FIRST_STAGE`, as a latent diffusion model's checkpoint holds them."""
    from pipelines.compvis.vq import VQParams, compvis_name

    params = VQParams.model_validate(FIRST_STAGE["params"])
    torch.manual_seed(1)
    tokenizer = VQTokenizer(params.ddconfig.options(), params.quantizer(), image_size=16, channels=3)
    name = compvis_name(levels=2)
    return {f"first_stage_model.{name(ours)}": value for ours, value in tokenizer.state_dict().items()}


def write(folder, params=PARAMS, weights=None):
    """Write a config and a checkpoint; gives the command's first three words."""
    config, checkpoint = folder / "config.yaml", folder / "model.ckpt"
    target = "ldm.models.diffusion.ddpm.LatentDiffusion"
    config.write_text(yaml.safe_dump({"model": {"target": target, "params": params}}))
    torch.save({"state_dict": unet() if weights is None else weights}, checkpoint)
    return "import-compvis", config, checkpoint
