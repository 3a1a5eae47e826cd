"""Which device to compute on, and in which precision it is fast."""

from __future__ import annotations

import torch


def find_device(name: str) -> torch.device:
    """The device of that name, or for `auto` a GPU where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name!r} is no device; say cpu, cuda or cuda:1") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"there is no {name} here, but {count or 'no'} CUDA devices; say --device cpu or another")
    return device


def fast_dtype() -> torch.dtype:
    """bfloat16 on processors with products for it (AVX-512 BF16, AMX), float32 on others, which only emulate it."""
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    able = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return torch.bfloat16 if able else torch.float32
