"""A vector for each class."""

from torch import Tensor, nn


class ClassEmbedding(nn.Embedding):
    """N + 1 rows, the last for "no class"; an unconditional model has that one only.

    Args:
        num_classes: N, or None.
        width: of the vectors.
    """

    def __init__(self, num_classes: int | None, width: int) -> None:
        super().__init__((num_classes or 0) + 1, width)

    def forward(self, class_label: Tensor | None, count: int) -> Tensor:  # type: ignore[override]
        """int64 [b] in 0..N, or None of an unconditional model, whose one row is then given b = `count` times.

        Returns:
            [b, width].
        """
        if class_label is None:
            return self.weight.expand(count, -1)
        return super().forward(class_label)
