"""What a table was computed on."""

import os
import platform
import re
from pathlib import Path


def machine() -> str:
    """The GPU, or else the CPU and how much of it, and torch's version."""
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        device = f"{_processor()}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}"
    return f"{device}; torch {torch.__version__}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text(encoding="utf-8")) if info.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()
