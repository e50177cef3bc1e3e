"""How the heads of attention share a network's width, which the config alone decides."""

from typing import Literal

from twostage.errors import refuse

Positions = Literal["learned", "rotary", "rotary_2d"]

TURNED_TOGETHER: dict[Positions, int] = {"learned": 1, "rotary": 2, "rotary_2d": 4}
"""What a head's channels must be a multiple of: a rotation turns pairs of them, and of both coordinates as many."""


def check_heads(width: int, heads: int, positions: Positions) -> None:
    """Refuse a width that so many heads cannot share."""
    divisor = heads * TURNED_TOGETHER[positions]
    if width % divisor:
        raise refuse("prior.width", width, f"a multiple of {divisor}, for {heads} heads with {positions} positions")
