"""Compiled modules, called directly: with what they were called with, and not when that looks different."""

import numpy as np
import pytest
import torch
from torch import nn

from model_worker.torch_engine.direct_calls import Backend, DirectModule

# torch's compiler meets its own deprecated parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Layer(nn.Module):
    """As decoder layers are called: hidden states, a pair of tensors by name, and what is always the same."""

    def __init__(self, seed: int, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(width, width)
        self.register_buffer("number", torch.tensor(float(seed)))

    def forward(self, hidden, *, angles, scale=None):
        first, second = angles
        mixed = self.linear(hidden) * first + second * hidden.shape[1] + self.number
        return mixed if scale is None else mixed * scale


class Pair(Layer):
    """Returns more than one tensor."""

    def forward(self, hidden, *, angles, scale=None):
        return super().forward(hidden, angles=angles, scale=scale), hidden


class Remembering(Layer):
    """Uses a tensor that is neither its own nor given to it."""

    def forward(self, hidden, *, angles, scale=None):
        return super().forward(hidden, angles=angles, scale=scale) + self.outside[0]


def arguments(tokens, width=8, dtype=torch.float32):
    angles = tuple(torch.randn(1, tokens, width, dtype=dtype) for _ in range(2))
    return (torch.randn(1, tokens, width, dtype=dtype),), {"angles": angles}


@pytest.fixture(autouse=True)
def _compiler():
    with torch.inference_mode(), torch.compiler.set_stance("default"):
        yield
    torch._dynamo.reset()


def direct(layers, tokens=(1, 2, 16)):
    backend = Backend({})
    modules = [DirectModule(layer, backend) for layer in layers]
    for count in tokens:
        args, kwargs = arguments(count)
        for layer in layers:
            layer(*args, **kwargs)
    for module in modules:
        module.learn()
    return modules


def test_layers_share_their_code_and_keep_their_weights():
    layers = [Layer(seed) for seed in range(3)]
    modules = direct(layers)
    assert all(module.is_direct for module in modules)
    with torch.compiler.set_stance("fail_on_recompile"):
        for tokens in (1, 2, 5, 31):
            args, kwargs = arguments(tokens)
            for layer in layers:
                torch.testing.assert_close(layer(*args, **kwargs), layer.forward(*args, **kwargs))


def test_the_compiler_is_not_asked_again(monkeypatch):
    layer = Layer(0)
    [module] = direct([layer])
    monkeypatch.setattr(module, "_compiled", None)
    args, kwargs = arguments(7)
    torch.testing.assert_close(layer(*args, **kwargs), layer.forward(*args, **kwargs))


@pytest.mark.parametrize(
    "change", ["another argument", "another dtype", "another layout", "another place", "another batch", "an object"]
)
def test_a_call_that_looks_different_takes_the_usual_way(change):
    layer = Layer(0)
    direct([layer])
    args, kwargs = arguments(7)
    match change:
        case "another argument":
            kwargs["scale"] = 2.0
        case "another dtype":
            layer.double()
            args, kwargs = arguments(7, dtype=torch.float64)
        case "another layout":
            args = (torch.randn(1, 8, 7).transpose(1, 2),)
        case "another place":
            kwargs["hidden"], args = args[0], ()
        case "another batch":
            args = (torch.randn(3, 7, 8),)
        case "an object":
            kwargs["scale"] = np.float32(1.5)
    with torch.compiler.set_stance("eager_on_recompile"):  # as in a worker that is ready
        torch.testing.assert_close(layer(*args, **kwargs), layer.forward(*args, **kwargs))


@pytest.mark.parametrize("kind", [Pair, Remembering])
def test_a_layer_of_another_kind_is_compiled_and_called_in_the_usual_way(kind):
    layer = kind(0)
    layer.outside = [torch.randn(8)]
    [module] = direct([layer])
    assert not module.is_direct
    args, kwargs = arguments(5)
    torch.testing.assert_close(layer(*args, **kwargs), layer.forward(*args, **kwargs))


def test_what_was_seen_once_with_many_tokens_is_not_taken_for_a_rule():
    layer = Layer(0)
    [module] = direct([layer], tokens=(1, 2))
    args, kwargs = arguments(9)
    torch.testing.assert_close(layer(*args, **kwargs), layer.forward(*args, **kwargs))
    assert not module.is_direct


def test_forgotten_it_runs_as_it_did_before():
    layer = Layer(0)
    [module] = direct([layer])
    module.forget()
    args, kwargs = arguments(5)
    assert torch.equal(layer(*args, **kwargs), layer.forward(*args, **kwargs))
