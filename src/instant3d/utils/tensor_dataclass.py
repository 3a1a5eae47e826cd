"""Frozen dataclasses of tensors that can be moved, indexed and stacked as one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor


class TensorDataclass:
    """Mixin for frozen dataclasses whose fields are tensors, other tensor dataclasses, or None.

    All fields share their leading dimensions: indexing and stacking act on those.
    """

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Apply `function` to every tensor inside."""

        def apply(value: Any) -> Any:
            if isinstance(value, TensorDataclass):
                return value.map(function)
            return function(value) if isinstance(value, Tensor) else value

        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields})  # type: ignore[type-var]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """`Tensor.to` for every tensor inside (Lightning calls this to move a batch)."""
        return self.map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        """Lock every tensor in page-locked memory, for faster copies to a GPU."""
        return self.map(Tensor.pin_memory)

    def __getitem__(self, index: Any) -> Self:
        """Index the shared leading dimensions."""
        return self.map(lambda tensor: tensor[index])

    @classmethod
    def stack(cls, items: Sequence[Self]) -> Self:
        """Join items of equal shape along a new first dimension; works as a `collate_fn`.

        Raises:
            ValueError: There are no items, or a field is None in some of them only.
        """
        return cls._join(items, torch.stack)

    @classmethod
    def cat(cls, items: Sequence[Self]) -> Self:
        """Join items along their first dimension; errors as `stack`."""
        return cls._join(items, torch.cat)

    @classmethod
    def _join(cls, items: Sequence[Self], join: Callable[[list[Tensor]], Tensor]) -> Self:
        if not items:
            raise ValueError(f"cannot join an empty list of {cls.__name__}")

        def merge(name: str) -> Any:
            values = [getattr(item, name) for item in items]
            if isinstance(values[0], TensorDataclass):
                return type(values[0])._join(values, join)
            missing = sum(value is None for value in values)
            if missing and missing < len(values):
                raise ValueError(
                    f"{missing} of {len(values)} {cls.__name__} to be joined have no {name}; all or none may"
                )
            return join(values) if isinstance(values[0], Tensor) else values[0]

        return cls(**{f.name: merge(f.name) for f in dataclasses.fields(items[0])})  # type: ignore[arg-type]
