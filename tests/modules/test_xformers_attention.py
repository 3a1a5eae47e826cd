"""Attention by xformers with stand-ins for the package: with kernels, without them, and not installed."""

import logging
import sys
import types
import warnings

import pytest
import torch
from torch.nn import functional as F

from instant3d.modules import xformers_attention as module
from instant3d.modules.xformers_attention import with_xformers

INPUTS = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0))  # query, key, value


@pytest.fixture(autouse=True)
def forgotten():
    def forget():
        module.load_operation.cache_clear()
        module._warn_once.cache_clear()
        module._unsupported.clear()

    forget()
    yield
    forget()


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Puts a package xformers on the path that prints and logs as the real one does where its kernels do not load."""

    def installed(body):
        folder = tmp_path / "xformers"
        folder.mkdir()
        (folder / "__init__.py").write_text(
            "import logging, sys\nprint('banner')\nprint('banner', file=sys.stderr)\n"
            "logging.getLogger('xformers').warning('banner')\n"
        )
        (folder / "ops.py").write_text(body)
        monkeypatch.syspath_prepend(tmp_path)

    yield installed
    for name in [name for name in sys.modules if name.split(".")[0] == "xformers"]:
        del sys.modules[name]


NO_KERNEL = "def memory_efficient_attention(q, k, v):\n    raise NotImplementedError('No operator found')\n"


def test_xformers_attention_gives_the_kernel_heads_in_the_third_place(install):
    install("def memory_efficient_attention(q, k, v):\n    assert q.shape == (2, 7, 4, 8)\n    return 2 * v\n")
    assert torch.equal(module.xformers_attention(*INPUTS), 2 * INPUTS[2])


@pytest.mark.parametrize("body", [NO_KERNEL, "raise OSError('libcudart.so.12: cannot open shared object file')\n"])
def test_xformers_attention_without_a_kernel_is_pytorchs_with_one_warning_and_no_banner(install, body, capfd, caplog):
    install(body)
    caplog.set_level(logging.DEBUG)
    with pytest.warns(UserWarning, match="has no kernel for torch") as caught:
        found = [module.xformers_attention(*inputs) for inputs in (INPUTS, INPUTS, INPUTS.double())]
    assert len(caught) == 1
    assert torch.equal(found[0], F.scaled_dot_product_attention(*INPUTS))
    assert found[2].dtype == torch.float64
    assert "banner" not in "".join(capfd.readouterr()) + caplog.text


def test_xformers_attention_without_the_package_is_pytorchs(monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.warns(UserWarning, match="not installed or has no kernel"):
        assert torch.equal(module.xformers_attention(*INPUTS), F.scaled_dot_product_attention(*INPUTS))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(NotImplementedError("No operator\nfound"), "has no kernel for torch"), (ModuleNotFoundError(), "pip install")],
)
def test_with_xformers_without_a_kernel_says_so_in_one_sentence(error, sentence):
    def enable():
        print("banner")
        raise error

    unet = types.SimpleNamespace(device=torch.device("cuda"), enable_xformers_memory_efficient_attention=enable)
    with warnings.catch_warnings(action="error"), pytest.raises(ValueError, match=sentence) as raised:
        with_xformers(unet)
    assert "\n" not in str(raised.value)
