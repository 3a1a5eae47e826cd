"""Attention by the xformers package, and PyTorch's own where xformers has no kernel for the installed torch or GPU."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from instant3d.utils.errors import first_line

NOT_USABLE = (ImportError, OSError, NotImplementedError)  # not installed, built for another torch, no kernel

_unsupported: set[tuple[Any, ...]] = set()  # kinds of calls for which xformers has no kernel


def xformers_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention by xformers; where it has no kernel, by PyTorch with one warning.

    Args:
        query: (B, heads, N, head width).
        key: (B, heads, M, head width).
        value: (B, heads, M, head width).

    Returns:
        (B, heads, N, head width).
    """
    kind = (query.device, query.dtype, query.shape[-1])
    if kind not in _unsupported:
        try:
            swapped = (part.transpose(1, 2) for part in (query, key, value))
            return load_operation()(*swapped).transpose(1, 2)
        except NOT_USABLE:
            _unsupported.add(kind)
            _warn_once()
    return F.scaled_dot_product_attention(query, key, value)


def with_xformers(unet: Any) -> Any:
    """Replace a UNet's attention by xformers' memory-efficient attention; CUDA only.

    Raises:
        ValueError: The UNet is not on a CUDA device, or xformers is not installed or has no kernel for the installed
            torch.
    """
    if unet.device.type != "cuda":
        raise ValueError(f"xformers works on CUDA only, but the UNet is on {unet.device}; leave PyTorch's attention")
    try:
        with silenced():
            unet.enable_xformers_memory_efficient_attention()
    except ModuleNotFoundError:
        raise ValueError("xformers is not installed; `pip install 'instant3d[xformers]'`") from None
    except NOT_USABLE as error:
        raise ValueError(
            f"the installed xformers has no kernel for torch {torch.__version__} here ({first_line(error)}); leave "
            "PyTorch's attention"
        ) from None
    return unet


@functools.cache
def load_operation() -> Callable[..., Tensor]:
    """Import xformers' attention without its notes about missing extensions.

    Raises:
        ImportError: It is not installed.
        OSError: Its libraries cannot be loaded.
    """
    with silenced():
        from xformers.ops import memory_efficient_attention
    return memory_efficient_attention


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppress what xformers logs, prints and warns of while it is imported."""
    log = logging.getLogger("xformers")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        log.setLevel(level)


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        f"xformers is not installed or has no kernel for torch {torch.__version__} on this device; PyTorch's own "
        "attention is used, which computes the same (`xformers: false` in the architecture ends this warning)",
        stacklevel=3,
    )
