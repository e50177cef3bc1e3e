"""Numbers recorded from the published implementations, where they are at hand."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens"


@pytest.fixture
def golden():
    """name -> (tensors, case) of a recorded file; skips where it is absent."""

    def read(name):
        path = GOLDENS / f"{name}.safetensors"
        if not path.exists():
            pytest.skip(f"{path.name} is not here: parity with the published code is not checked")
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["case"])  # noqa: SIM118

    return read
