"""Released latent diffusion models that have no counterpart here, or are not what their configs say."""

from functools import partial

import pytest
import torch
from released_ldm import CONDITION, CONDITIONAL, EMBEDDER, FIRST_STAGE, PARAMS, UNET, VQ, first_stage, unet, write


@pytest.fixture
def released(tmp_path):
    """(params, weights) -> the first three words of a command that imports them."""
    return partial(write, tmp_path)


def changed(params, **unet_options):
    inner = params["unet_config"]["params"] | unet_options
    return params | {"unet_config": {"target": UNET, "params": inner}}


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (
            CONDITIONAL | {"cond_stage_config": {"target": "ldm.modules.encoders.modules.BERTEmbedder"}},
            ("model.params.cond_stage_config.target: 'ldm.modules.encoders.modules.BERTEmbedder'", EMBEDDER),
        ),
        (PARAMS | {"cond_stage_config": "__is_first_stage__"}, ("cond_stage_config.target: '__is_first_stage__'",)),
        (PARAMS | {"cond_stage_config": None}, ("cond_stage_config.target: None",)),
        (PARAMS | {"unet_config": {"target": "ldm.UNet", "params": {}}}, ("unet_config.target: 'ldm.UNet'", UNET)),
        (PARAMS | {"unet_config": {"target": UNET, "params": 3}}, ("unet_config.params: 3", "a mapping")),
        (PARAMS | {"conditioning_key": "concat"}, ("conditioning_key: 'concat'", "crossattn")),
        (CONDITIONAL | {"conditioning_key": None}, ("conditioning_key: None", "crossattn")),
        (CONDITIONAL | {"cond_stage_config": "__is_unconditional__"}, ("cond_stage_config.target", EMBEDDER)),
        (PARAMS | {"cond_stage_config": CONDITION}, ("conditioning_key: None", "a UNet that has it")),
        (
            CONDITIONAL | {"cond_stage_config": {"target": EMBEDDER, "params": {"embed_dim": 17}}},
            ("cond_stage_config.params.embed_dim: 17", "context_dim (16)"),
        ),
        (CONDITIONAL | {"cond_stage_config": {"target": EMBEDDER}}, ("cond_stage_config.params: embed_dim: missing",)),
        (PARAMS | {"beta_schedule": "cosine"}, ("beta_schedule: 'cosine'", "'linear'")),
        (PARAMS | {"parameterization": "x0"}, ("parameterization: 'x0'", "'eps'")),
        (PARAMS | {"linear_start": 0.5}, ("betas: [0.5, 0.0195]",)),
        (PARAMS | {"channels": 3}, ("unet_config.params.in_channels: 4", "model.params.channels (3)")),
        (PARAMS | {"image_size": 9}, ("denoiser.widths: [32, 64]", "latents of 9")),
        (PARAMS | {"scale_factor": 0.0}, ("scale_factor: 0.0", "greater than 0")),
        (changed(PARAMS, out_channels=8), ("unet_config.params: out_channels: 8", "in_channels (4)")),
        (changed(PARAMS, channel_mult=[2, 4]), ("channel_mult: [2, 4]", "starts with 1")),
        (changed(PARAMS, num_head_channels=-1), ("num_heads: -1", "num_head_channels")),
        (changed(PARAMS, context_dim=16), ("context_dim: 16", "use_spatial_transformer")),
        (changed(CONDITIONAL, resblock_updown=True), ("resblock_updown: True", "use_spatial_transformer")),
        (changed(CONDITIONAL, transformer_depth=2), ("transformer_depth: 2",)),
        (changed(PARAMS, use_new_attention_order=True), ("use_new_attention_order: True",)),
        (changed(PARAMS, num_classes=1000), ("num_classes: 1000",)),
        (changed(PARAMS, num_head_channel=8), ("num_head_channel: unknown key", "did you mean num_head_channels?")),
        (changed(PARAMS, num_head_channels=24), ("denoiser.head_dim: 24", "[64, 64]")),
    ],
)
def test_settings_without_a_counterpart(command, released, untouched, params, words):
    words_of_command = released(params)
    command(*words_of_command, "--output", untouched).assert_refused(words_of_command[1], *words)


def without(name):
    return {key: value for key, value in unet().items() if key != name}


TIME = "model.diffusion_model.time_embed.0.bias"
QKV = "model.diffusion_model.middle_block.1.qkv.weight"


@pytest.mark.parametrize(
    ("params", "weights", "words"),
    [
        (PARAMS, without(TIME), ("1 missing weights", f"'{TIME}'")),
        (PARAMS, {}, ("missing weights", "'model.diffusion_model.")),
        (PARAMS, unet() | {"model.diffusion_model.label_emb.weight": torch.zeros(1)}, ("1 unexpected weights",)),
        (PARAMS, unet() | {TIME: torch.zeros(64)}, (f"{TIME} of shape (64,)", "(128,)")),
        (PARAMS, unet() | {QKV: torch.zeros(190, 64, 1)}, (f"{QKV} of shape (190, 64, 1)", "heads of the config")),
        (PARAMS, unet() | {QKV: torch.zeros(30, 64, 1)}, (f"{QKV} of shape (30, 64, 1)", "heads of the config")),
        (PARAMS | {"scale_by_std": True}, unet(), ("1 missing weights", "'scale_factor'")),
        (PARAMS, unet() | {"scale_factor": torch.tensor(0.0)}, ("scale_factor: 0.0", "a positive number")),
        (CONDITIONAL, unet(16), ("1 missing weights", "'cond_stage_model.embedding.weight'")),
        (CONDITIONAL, unet(16, classes=4), ("cond_stage_model.embedding.weight of shape (5, 16)", "(6, 16)")),
        (PARAMS, unet() | {"cond_stage_model.embedding.weight": torch.zeros(5, 16)}, ("1 unexpected weights",)),
    ],
)
def test_weights_of_another_model(command, released, untouched, params, weights, words):
    words_of_command = released(params, weights)
    command(*words_of_command, "--output", untouched).assert_refused(words_of_command[2], *words)


def test_a_first_stage_that_the_config_does_not_name(command, released, untouched):
    words = released(weights=unet() | first_stage())
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[1], "first_stage_config.target: None is not imported", VQ)


def test_a_first_stage_that_is_not_whole(command, released, untouched):
    held = first_stage()
    del held["first_stage_model.quantize.embedding.weight"]
    words = released(PARAMS | {"first_stage_config": FIRST_STAGE}, unet() | held)
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[2], "1 missing weights", "'first_stage_model.quantize.embedding.weight'")


def test_a_first_stage_of_other_latents(command, released, untouched):
    words = released(PARAMS | {"first_stage_config": FIRST_STAGE, "image_size": 16}, unet() | first_stage())
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[1], "channels, image_size: (4, 16)", "those of first_stage_config, (4, 8)")


def test_a_mistake_in_the_first_stage_is_named_where_it_is(command, released, untouched):
    first = FIRST_STAGE | {"params": FIRST_STAGE["params"] | {"n_embed": "many"}}
    words = released(PARAMS | {"first_stage_config": first}, unet() | first_stage())
    answer = command(*words, "--output", untouched)
    answer.assert_refused(words[1], "model.params.first_stage_config.params: n_embed: 'many'")
