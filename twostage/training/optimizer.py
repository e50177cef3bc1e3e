"""AdamW: "Decoupled Weight Decay Regularization" (Loshchilov and Hutter, 2019).

    w <- w - rate (m / (sqrt(v) + eps) + decay w)

Only matrices and kernels decay: a bias or the gain of a norm scales nothing that could grow without bound, and a row of
an embedding that a batch does not ask for would fade with nothing to hold it.
"""

from torch import nn
from torch.optim import AdamW

from twostage.config import OptimizerConfig


def adamw(module: nn.Module, optimizer: OptimizerConfig) -> AdamW:
    """The optimiser of every parameter of `module` that has a gradient."""
    rows = {id(table.weight) for table in module.modules() if isinstance(table, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups[parameter.ndim >= 2 and id(parameter) not in rows].append(parameter)
    return AdamW(
        [{"params": held, "weight_decay": optimizer.weight_decay * decays} for decays, held in groups.items()],
        lr=optimizer.learning_rate,
        betas=(optimizer.betas[0], optimizer.betas[1]),
    )
