"""How a run may be launched."""

import pytest

from twostage.config import TrainingConfig
from twostage.errors import TwoStageError
from twostage.training.loop import SHARDING, make_accelerator


@pytest.mark.parametrize("variable", SHARDING)
def test_a_model_that_no_process_holds_whole_is_refused(monkeypatch, variable):
    monkeypatch.setenv(variable, "true")
    with pytest.raises(
        TwoStageError, match=r"accelerate launch: .* is not allowed; .* training\.gradient_checkpointing"
    ):
        make_accelerator(TrainingConfig(steps=1, batch_size=1))


def test_accelerate_launch_may_say_that_it_does_not_split(monkeypatch):
    for variable in SHARDING:
        monkeypatch.setenv(variable, "false")
    assert make_accelerator(TrainingConfig(steps=1, batch_size=1)).num_processes == 1


def test_these_are_the_names_that_accelerate_uses(tmp_path):
    """As its own launcher sets them for the options of the same names."""
    from argparse import Namespace

    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    words = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--use_fsdp"]
    parsed = launch_command_parser().parse_args(
        [*words, "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "x.py"]
    )
    set_by_it = prepare_multi_gpu_env(Namespace(**vars(parsed)))
    assert {name for name in SHARDING if set_by_it.get(name) == "true"} == {"ACCELERATE_USE_FSDP"}
