"""What may stand for an image when a prior is trained: views of it, frozen side by side.

`ten-crop` is that of "Autoregressive Model Beats Diffusion: Llama for Scalable Image Generation" (Sun et al., 2024):
the image is read 1.1 times as large as the tokenizer takes it, and cut at its centre and its four corners; each cut is
there as it is and mirrored. Images that are no larger than the tokenizer's are enlarged to that, and softer for it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Offset = tuple[int, int]
"""Pixels from the top and from the left."""


def centre(room: int) -> list[Offset]:
    return [(room // 2, room // 2)]


def centre_and_corners(room: int) -> list[Offset]:
    return [*centre(room), *((top, left) for top in (0, room) for left in (0, room))]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Which views there are.

    Attributes:
        enlargement: how many times as large as the tokenizer takes them images are read.
        offsets: the pixels that are left over on a side -> where each cut begins.
        mirrored: whether the mirror image of each cut is a view too.
    """

    enlargement: float = 1.0
    offsets: Callable[[int], list[Offset]] = centre
    mirrored: bool = False

    def source_size(self, size: int) -> int:
        """H = W of the images to read, for a tokenizer that takes `size`."""
        return int(self.enlargement * size)

    def of(self, images: Tensor, size: int) -> list[Tensor]:
        """Images [b, c, H, W] -> each view of them, [b, c, size, size]; the first is the centre."""
        places = self.offsets(images.shape[-1] - size)
        cuts = [images[..., top : top + size, left : left + size] for top, left in places]
        return cuts + [cut.flip(-1) for cut in cuts if self.mirrored]


VIEWS = {
    "none": Views(),
    "flips": Views(mirrored=True),
    "ten-crop": Views(enlargement=1.1, offsets=centre_and_corners, mirrored=True),
}
