"""How a pipeline samples, as options of every command that does: one table, in the names that the pipelines have."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

SAMPLING: dict[str, Any] = {
    "num_inference_steps": Annotated[
        int | None, typer.Option("--steps", help="denoising steps (latent diffusion; default 200)")
    ],
    "solver": Annotated[
        str | None, typer.Option("--solver", help="ddim, dpm, unipc; for flows euler, heun, dpm, unipc")
    ],
    "eta": Annotated[float | None, typer.Option("--eta", help="DDIM's noise, 0 to 1 (latent diffusion; default 0)")],
    "guidance_scale": Annotated[float | None, typer.Option("--guidance-scale", help="1, the default: no guidance")],
    "guidance_rescale": Annotated[
        float | None, typer.Option("--guidance-rescale", help="0 to 1 (latent diffusion; default 0)")
    ],
    "guidance_interval": Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--guidance-interval",
            help="where guidance acts: from 0 (clean) to 1 (noise), or 0 (first code) to 1 (last; transformer)",
        ),
    ],
    "guidance_power": Annotated[
        float | None,
        typer.Option("--guidance-power", help="how it grows along the codes (transformer; 0: not)"),
    ],
    "temperature": Annotated[float | None, typer.Option("--temperature", help="of the codes (transformer; default 1)")],
    "top_k": Annotated[
        int | None, typer.Option("--top-k", help="draw from the k likeliest codes (transformer; 0: all)")
    ],
    "top_p": Annotated[
        float | None, typer.Option("--top-p", help="draw from the likeliest codes up to p (transformer)")
    ],
}


def sampling_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose last parameter, `options`, is filled from the options of `SAMPLING` that were given."""

    @wraps(command)
    def wrapper(**values: Any) -> None:
        given = {name: values.pop(name) for name in SAMPLING}
        command(**values, options={name: value for name, value in given.items() if value is not None})

    own = inspect.signature(command)
    kept = [parameter for parameter in own.parameters.values() if parameter.name != "options"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in SAMPLING.items()
    ]
    wrapper.__signature__ = own.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *added]}
    return wrapper
