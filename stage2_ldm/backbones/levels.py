"""The resolutions of a UNet: how wide each is, and whether and with how many heads it attends to itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from twostage.errors import refuse


@dataclass(frozen=True)
class Levels:
    """Resolutions from the finest; every next one is half of it.

    Attributes:
        widths: channels.
        attends: whether there is attention.
        heads: of attention; the middle of the network attends with the heads of the last.
    """

    widths: tuple[int, ...]
    attends: tuple[bool, ...]
    heads: tuple[int, ...]


def check_levels(
    latent_size: int,
    widths: Sequence[int],
    attention: Sequence[bool] | None,
    head_dim: int | None,
    heads: int | None,
    norm_groups: int,
) -> Levels:
    """The levels that a UNet's options describe.

    Args:
        latent_size: h = w of the latents.
        widths: channels at each resolution.
        attention: whether each resolution attends; by default all but the finest.
        head_dim, heads: channels of a head, or the number of heads at every width; the other is None.
        norm_groups: of group normalisation. A group of one channel normalises away what is added to that channel
            everywhere, as the time and class embeddings are: at least the widest resolution must have larger groups.

    Raises:
        TwoStageError: a width that `norm_groups` does not divide, or that has attention and cannot be split into heads;
            no width of two groups' size; another number of `attention` than of widths; both or neither of `head_dim`
            and `heads`; or a latent size that cannot be halved so often.
    """
    if not widths:
        raise refuse("denoiser.widths", widths, "one number of channels per resolution, at least one")
    if any(width % norm_groups for width in widths) or max(widths) < 2 * norm_groups:
        allowed = f"multiples of denoiser.norm_groups ({norm_groups}), the widest at least twice it"
        raise refuse("denoiser.widths", widths, allowed)
    halvings = len(widths) - 1
    if latent_size % 2**halvings:
        raise refuse("denoiser.widths", widths, f"so few that latents of {latent_size} can be halved between them")
    attends = [False] + [True] * halvings if attention is None else attention
    if len(attends) != len(widths):
        raise refuse("denoiser.attention", attention, f"one of true or false for each of the {len(widths)} widths")
    attended = [width for width, attend in zip(widths, attends) if attend] + [widths[-1]]  # the middle always attends
    return Levels(tuple(widths), tuple(attends), tuple(_heads(widths, attended, head_dim, heads)))


def _heads(widths: Sequence[int], attended: list[int], head_dim: int | None, heads: int | None) -> list[int]:
    key, divisor = ("head_dim", head_dim) if heads is None else ("heads", heads)
    if divisor is None or None not in (head_dim, heads):
        raise refuse("denoiser.heads", heads, f"null, or a number with head_dim: null; head_dim is {head_dim}")
    if any(width % divisor for width in attended):
        raise refuse(f"denoiser.{key}", divisor, f"a divisor of every width with attention, here {attended}")
    return [width // divisor if heads is None else divisor for width in widths]
