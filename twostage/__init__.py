"""What both stages share: configs, data, the training loop, metrics and pictures. Knows no quantiser and no prior."""

__version__ = "0.1.0"
