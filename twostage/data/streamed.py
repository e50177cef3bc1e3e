"""Images that come from a stream: in an order that reads little at a time, and yet is no function of what was read.

Each epoch the row groups of the stream are put into a random order, which is dealt out to lanes; a lane mixes its
images within windows, and the lanes take turns. So an image's place in an epoch depends on the seed and the epoch
alone, as it does for images on a disk: a run goes on where it was stopped without a look at what came before. A process
of several, or a loader's worker, finds its part of every batch in some lanes only, and reads these only.
"""

import math

import numpy as np
import torch
from torch import Tensor

from twostage.data.sources.row_groups import RowGroups
from twostage.data.stored import Channels, OnCorrupt, Selection, StoredImages

LANES = 32
"""At most; fewer where the buffer does not hold a row group for each. Processes read different lanes where their shares
of a batch are multiples of `TURN`, and workers of a process where several batches pass before a lane is there again."""

TURN = 32
"""Images of a lane before the next one's."""


class StreamedImages(StoredImages):
    """The images of Parquet files, all of them.

    Args:
        buffer: so many images are mixed with each other.
        image_size, channels, on_corrupt: see `StoredImages`.
    """

    source: RowGroups

    def __init__(
        self,
        source: RowGroups,
        selection: Selection,
        *,
        buffer: int,
        image_size: int,
        channels: Channels = 3,
        on_corrupt: OnCorrupt = "refuse",
    ) -> None:
        super().__init__(source, selection, image_size=image_size, channels=channels, on_corrupt=on_corrupt)
        self.sizes = np.diff(source.starts)
        self.usual = max(1, math.ceil(len(self) / max(1, len(self.sizes))))
        self.lanes = min(LANES, max(1, buffer // self.usual))
        self.window = max(TURN, buffer // self.lanes)
        source.held = self.lanes * (2 + math.ceil(2 * self.window / self.usual))

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """An epoch: int64 [n]."""
        return in_lanes(torch.from_numpy(self.sizes), self.lanes, self.window, generator)

    def spread(self, count: int) -> list[int]:
        """Of whole row groups, spread over all, as many as it takes."""
        wanted = min(len(self.sizes), math.ceil(count / self.usual) + 1)
        groups = np.linspace(0, len(self.sizes) - 1, wanted).astype(int)
        rows = np.concatenate([np.arange(*self.source.starts[group : group + 2]) for group in groups])
        return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)].tolist()


def in_lanes(sizes: Tensor, lanes: int, window: int, generator: torch.Generator) -> Tensor:
    """The rows of row groups of `sizes` int64 [groups], mixed: the numbers 0..n-1, int64 [n].

    What does not fill a turn of every lane comes last.
    """
    line = _groups_in_random_order(sizes, generator)
    each = len(line) // (lanes * TURN) * TURN
    dealt, rest = line[: lanes * each].view(lanes, each), line[lanes * each :]
    late = torch.arange(lanes)[:, None] * window // lanes  # lanes enter their windows one after another
    at = (torch.arange(each) + late) // window + torch.rand(lanes, each, generator=generator, dtype=torch.float64)
    mixed = dealt.gather(1, at.argsort(1)).view(lanes, -1, TURN).transpose(0, 1).flatten()
    return torch.cat([mixed, rest[torch.randperm(len(rest), generator=generator)]])


def _groups_in_random_order(sizes: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(sizes), generator=generator)
    first, of_each = (sizes.cumsum(0) - sizes)[order], sizes[order]
    before = of_each.cumsum(0) - of_each
    return torch.arange(int(sizes.sum())) + (first - before).repeat_interleave(of_each)
