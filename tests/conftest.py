"""What every test has in common."""

import pytest
import torch


@pytest.fixture(autouse=True)
def same_numbers():
    """A test draws the same random numbers whichever tests ran before it."""
    torch.manual_seed(0)
