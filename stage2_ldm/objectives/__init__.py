"""What a denoiser is trained to predict, by name. Each has `prediction_type`, `scheduler` and `loss`."""

from twostage.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "diffusion": "stage2_ldm.objectives.diffusion:Diffusion",
        "flow": "stage2_ldm.objectives.flow:Flow",
    },
)
