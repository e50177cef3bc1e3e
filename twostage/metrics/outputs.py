"""What a feature network says."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a feature network says about n images; all on the CPU.

    Attributes:
        features: float32 [n, d].
        logits: float32 [n, classes] without bias, for networks that classify.
    """

    features: Tensor
    logits: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)
