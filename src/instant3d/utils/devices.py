"""Choice of the compute device and of a fast precision on the CPU."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """Return the device of that name; `auto` is a GPU if there is one, else the CPU.

    Raises:
        ValueError: The name is not a device, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name!r} is not a device; use cpu, cuda or cuda:1") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"there is no {name} here, but {count or 'no'} CUDA devices; use --device cpu or another")
    return device


def fast_dtype() -> torch.dtype:
    """Return bfloat16 on CPUs with native bfloat16 products (AVX-512 BF16, AMX), float32 on those that emulate it."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    able = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if able else torch.float32
