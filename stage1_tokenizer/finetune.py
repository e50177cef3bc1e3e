"""Fine-tuning a tokenizer: it starts from another one's weights, and against the judge that the other one faced.

Everything else is as in a run from scratch: the optimiser's state is new, schedules begin again, and so does the rise
of the discriminator's voice.
"""

from pathlib import Path
from warnings import warn

from torch import Tensor

from stage1_tokenizer.adversarial import Adversary
from stage1_tokenizer.autoencoders import AUTOENCODERS
from stage1_tokenizer.quantizers import QUANTIZERS
from stage1_tokenizer.tokenizer import VQTokenizer
from twostage.finetune import check_alike
from twostage.training.checkpoints import Checkpoints

DISCRIMINATOR = "adversary.discriminator."
"""What the names of its weights begin with in the state of a `TokenizerTask`."""


def inherit_tokenizer(model: VQTokenizer, start: VQTokenizer, origin: str) -> None:
    """Give `model` the weights and the codebook's running state of `start`, of whatever image size.

    Raises:
        TwoStageError: `start` is another autoencoder or quantiser, or for images of other channels; the first key
            that differs is named.
    """
    check_alike(_anatomy(model), _anatomy(start), origin)
    model.load_state_dict(start.state_dict())


def _anatomy(model: VQTokenizer) -> dict[str, object]:
    """Of a tokenizer saved long ago, an option that is new since has its default."""
    return {
        "autoencoder": AUTOENCODERS.resolve(model.config["autoencoder_config"], "autoencoder"),
        "quantizer": QUANTIZERS.resolve(model.config["quantizer_config"], "quantizer"),
        "channels": model.config["channels"],
    }


def inherit_discriminator(adversary: Adversary, run: Path) -> None:
    """Give `adversary` the discriminator in the newest checkpoint of a run folder; warn where there is none like it.

    Args:
        run: the folder, or that of the tokenizer in it.
    """
    fresh, found = adversary.discriminator.state_dict(), _discriminator(run) or _discriminator(run.parent)
    if {name: tensor.shape for name, tensor in found.items()} == {name: tensor.shape for name, tensor in fresh.items()}:
        adversary.discriminator.load_state_dict(found)
    else:
        held = "another kind of" if found else "no"
        warn(f"{run}: holds {held} discriminator; this run's knows nothing at its start", stacklevel=2)


def _discriminator(run: Path) -> dict[str, Tensor]:
    state = Checkpoints(run / "checkpoints").state_of("task")
    return {name.removeprefix(DISCRIMINATOR): value for name, value in state.items() if name.startswith(DISCRIMINATOR)}
