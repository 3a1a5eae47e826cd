"""Batches: what `torch` does to each tensor is what a batch does to all of them."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from instant3d.utils.tensor_dataclass import TensorDataclass


@dataclass(frozen=True)
class Inner(TensorDataclass):
    weight: Tensor


@dataclass(frozen=True)
class Outer(TensorDataclass):
    colour: Tensor
    inner: Inner
    label: str
    extra: Tensor | None = None


def outer(start: float, extra: bool = False) -> Outer:
    colour = torch.arange(6.0).reshape(2, 3) + start
    return Outer(colour, Inner(colour[:, 0] * 10), "kept", colour.sum(1) if extra else None)


def test_tensor_dataclass_indexing_acts_on_the_leading_dimension_of_every_tensor():
    second = outer(0.0, extra=True)[1]
    assert second.colour.tolist() == [3.0, 4.0, 5.0]
    assert second.inner.weight.item() == 30.0
    assert second.extra is not None
    assert second.extra.item() == 12.0


def test_tensor_dataclass_stack_then_index_gives_back_each_item():
    items = [outer(0.0), outer(100.0), outer(-7.0)]
    stacked = Outer.stack(items)
    assert stacked.colour.shape == (3, 2, 3)
    for k, item in enumerate(items):
        assert torch.equal(stacked[k].colour, item.colour)
        assert torch.equal(stacked[k].inner.weight, item.inner.weight)


def test_tensor_dataclass_cat_lengthens_the_first_dimension_only():
    joined = Outer.cat([outer(0.0, extra=True), outer(100.0, extra=True)])
    assert joined.colour[:, 0].tolist() == [0.0, 3.0, 100.0, 103.0]
    assert joined.inner.weight.tolist() == [0.0, 30.0, 1000.0, 1030.0]
    assert joined.extra is not None
    assert joined.extra.tolist() == [3.0, 12.0, 303.0, 312.0]


def test_tensor_dataclass_map_leaves_what_is_no_tensor_untouched():
    moved = outer(0.0).to(torch.float64)
    assert (moved.colour.dtype, moved.inner.weight.dtype) == (torch.float64, torch.float64)
    assert (moved.label, moved.extra) == ("kept", None)


def test_tensor_dataclass_to_leaves_the_original_as_it_was():
    item = outer(0.0)
    item.map(lambda tensor: tensor + 1)
    assert item.colour[0, 0].item() == 0.0


def test_tensor_dataclass_stack_needs_an_optional_field_in_all_items_or_in_none():
    with pytest.raises(ValueError, match="1 of 2 Outer to be joined have no extra"):
        Outer.stack([outer(0.0), outer(0.0, extra=True)])


def test_tensor_dataclass_stack_refuses_nothing():
    with pytest.raises(ValueError, match="empty list of Outer"):
        Outer.stack([])
