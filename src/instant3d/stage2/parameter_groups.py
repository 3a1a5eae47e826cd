"""Which parameters of the network are trained, with which weight decay and learning rate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn


def train_only(network: nn.Module, parts: Sequence[str]) -> None:
    """Freeze the parameters of a network outside the named parts.

    Args:
        network: The network.
        parts: Names of modules or parameters, such as "decoder" or "lift.up".

    Raises:
        ValueError: No parameter has one of the names.
    """
    names = [name for name, _ in network.named_parameters()]
    for part in parts:
        if not any(_within(name, part) for name in names):
            tops = sorted({name.split(".")[0] for name in names})
            raise ValueError(f"model.trainable: the network has no {part!r}; its parts are {', '.join(tops)}")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(_within(name, part) for part in parts))


def _within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def parameter_groups(
    network: nn.Module, weight_decay: float, added: Collection[str] = (), added_learning_rate: float | None = None
) -> list[dict[str, Any]]:
    """Parameter groups of an optimizer: with weight decay and without, and of each the added ones apart.

    Args:
        network: The network.
        weight_decay: On matrices alone.
        added: Names of parameters with a learning rate of their own.
        added_learning_rate: Their learning rate.
    """
    apart = {id(network.get_parameter(name)) for name in added}
    groups = []
    for parameters, decay in zip(split_parameters(network), (weight_decay, 0.0), strict=True):
        groups.append({"params": [one for one in parameters if id(one) not in apart], "weight_decay": decay})
        if new := [one for one in parameters if id(one) in apart]:
            groups.append({"params": new, "weight_decay": decay, "lr": added_learning_rate})
    return groups


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trained parameters with weight decay (matrices) and without (norms, biases, tokens and position tables)."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        is_table = name.endswith(("tokens", "cls_token", "pos_embed"))
        (plain if parameter.dim() < 2 or is_table else decayed).append(parameter)
    return decayed, plain
