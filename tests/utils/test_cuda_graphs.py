"""What is recorded as CUDA graphs: on the CPU nothing is, and a stand-in shows what is asked of torch."""

import copy

import pytest
import torch

from instant3d.utils.cuda_graphs import GraphedModule


def test_graphed_module_calls_the_module_itself_where_there_is_no_gpu():
    layer = torch.nn.Linear(3, 2)
    x = torch.randn(4, 3)
    assert torch.equal(GraphedModule(layer)(x), layer(x))


def test_graphed_module_refuses_a_batch_of_another_size():
    graphed = GraphedModule(torch.nn.Linear(3, 2))
    graphed(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"got 5x3 after 4x3; set model.cuda_graphs to false"):
        graphed(torch.randn(5, 3))


def test_graphed_module_copies_share_what_is_recorded():
    graphed = GraphedModule(torch.nn.Linear(3, 2))
    assert copy.deepcopy(graphed) is graphed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphed_module_gives_the_gradients_of_plain_passes_at_new_weights():
    layer = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 4)).cuda()
    graphed = GraphedModule(layer)
    for _ in range(3):
        x = torch.randn(5, 8, device="cuda")
        found = torch.autograd.grad(graphed(x).square().mean(), list(layer.parameters()))
        wanted = torch.autograd.grad(layer(x).square().mean(), list(layer.parameters()))
        torch.testing.assert_close(found, wanted)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
