"""diffusers' schedulers by name, each for the families of objectives that it solves."""

from typing import Any

from stage2_ldm.denoiser import LatentDenoiser
from twostage.errors import TwoStageError
from twostage.registry import suggest

FLOW = "flow_prediction"

DIFFUSION_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "dpm": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
}
FLOW_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "dpm": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}),
}
SOLVERS = tuple(dict.fromkeys([*DIFFUSION_SOLVERS, *FLOW_SOLVERS]))


def family(scheduler: Any) -> str:
    """What the network must predict for this scheduler, in diffusers' terms."""
    return scheduler.config.get("prediction_type") or FLOW


def check_family(scheduler: Any, denoiser: LatentDenoiser) -> None:
    """A scheduler of another family would read the network's output as something it is not.

    Raises:
        TwoStageError: the scheduler expects another prediction than the denoiser makes.
    """
    makes = denoiser.config["prediction_type"]
    if family(scheduler) != makes:
        raise TwoStageError(
            f"scheduler: {type(scheduler).__name__} expects {family(scheduler)}, this denoiser predicts {makes}; "
            f"allowed: a scheduler whose prediction_type is {makes}, or twostage's solver={_names(makes)}"
        )


def solver(name: str, scheduler: Any) -> Any:
    """The solver called `name` over the noise schedule of `scheduler`.

    Raises:
        TwoStageError: no such solver for this scheduler's family.
    """
    import diffusers

    flow = family(scheduler) == FLOW
    table = FLOW_SOLVERS if flow else DIFFUSION_SOLVERS
    if name not in table:
        raise TwoStageError(f"solver: {name!r} does not solve {family(scheduler)}; {suggest(name, table)}")
    kind, options = table[name]
    schedule = dict(scheduler.config)
    if flow:
        shift = schedule.get("shift", schedule.get("flow_shift", 1.0))
        schedule = {"num_train_timesteps": schedule["num_train_timesteps"], "shift": shift, "flow_shift": shift}
        if kind.startswith(("DPM", "UniPC")):
            schedule |= {"use_flow_sigmas": True, "prediction_type": FLOW}
    return getattr(diffusers, kind).from_config(schedule, **options)


def _names(prediction_type: str) -> str:
    return "|".join(FLOW_SOLVERS if prediction_type == FLOW else DIFFUSION_SOLVERS)


def noise_level(scheduler: Any, t: Any) -> tuple[float, float]:
    """The factors of clean latents and of noise at time t, x_t = signal x_0 + deviation eps.

    Raises:
        TwoStageError: a solver that remembers earlier steps, which a completion takes back.
    """
    kind = type(scheduler).__name__
    if kind == "FlowMatchEulerDiscreteScheduler":
        sigma = float(t) / scheduler.config.num_train_timesteps
        return 1 - sigma, sigma
    if kind == "DDIMScheduler":
        abar = float(scheduler.alphas_cumprod[int(t)])
        return abar**0.5, (1 - abar) ** 0.5
    raise TwoStageError(f"solver: {kind} cannot complete images; allowed: ddim, or euler for flows")
