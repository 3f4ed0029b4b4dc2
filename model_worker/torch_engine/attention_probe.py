"""One tiny forward pass that finds a model's attention layers, and refuses by name what the engine cannot reproduce."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AttentionMaskInterface, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model_worker.loading.load_errors import UnsupportedModelError
from model_worker.torch_engine.kv_storage import LayerShape

_PROBE_NAME = "tokenmill-probe"
_PROBE_TOKENS = 4
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Options that attention/ honours, and those that say nothing about the result (training, caching, bookkeeping).
_HONOURED = {"scaling", "sliding_window", "softcap", "s_aux"}
_WITHOUT_EFFECT = {"dropout", "position_ids", "use_cache", "cache_position"}


def probe_layers(model: PreTrainedModel) -> dict[nn.Module, LayerShape]:
    """Return what each attention layer of `model` stores per token, in the order in which the layers run.

    Errors: UnsupportedModelError, saying which part of the model the engine does not know.
    """
    config = model.config.get_text_config()
    unknown = set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES
    if unknown:
        raise UnsupportedModelError(f"{_name(model)} has layers of the kind {', '.join(sorted(unknown))}")
    probe = _Probe(_name(model))
    ids = torch.arange(_PROBE_TOKENS, device=model.device).unsqueeze(0)
    AttentionMaskInterface.register(_PROBE_NAME, _plain_causal_mask)
    with attention_function(model, probe, _PROBE_NAME), torch.inference_mode():
        try:
            model(input_ids=ids, position_ids=ids, use_cache=False)
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
            raise UnsupportedModelError(f"{_name(model)} cannot run a packed batch: {error}") from error
    probe.check(config)
    return probe.shapes


@contextmanager
def attention_function(model: PreTrainedModel, function: Callable[..., Any], name: str | None = None) -> Iterator[None]:
    """Let every attention layer of `model` call `function` until the end of the block.

    No mask function goes with a name of our own making, and so transformers builds no masks: `function` knows them.

    Errors: UnsupportedModelError when the model's layers do not ask transformers' attention interface.
    """
    name = name or f"tokenmill-{uuid.uuid4().hex}"
    before = model.config._attn_implementation  # noqa: SLF001 - transformers has no public getter
    ALL_ATTENTION_FUNCTIONS[name] = function
    try:
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:  # noqa: SLF001 - as above
            raise UnsupportedModelError(f"{_name(model)} does not use transformers' attention interface")
        yield
    finally:
        model.set_attn_implementation(before)
        del ALL_ATTENTION_FUNCTIONS[name]


class _Probe:
    """Stands in for attention during one forward pass: records what each layer passes and answers with zeros."""

    def __init__(self, model_name: str) -> None:
        self.shapes: dict[nn.Module, LayerShape] = {}
        self._model_name = model_name
        self._windowed_layers = 0

    def __call__(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Check the layer and note what it stores."""
        self._check_options(options)
        if module in self.shapes:
            self._refuse("runs one attention layer twice in a forward pass")
        if attention_mask is not None:
            self._refuse("builds an attention mask of its own")
        if not query.dtype == key.dtype == value.dtype:
            self._refuse("attends with queries, keys and values of different dtypes")
        if not getattr(module, "is_causal", True):
            self._refuse("attends in both directions")
        if key.shape[2] != query.shape[2]:
            self._refuse("attends to something else than the tokens of the step")
        self._windowed_layers += options.get("sliding_window") is not None
        self.shapes[module] = LayerShape(key.shape[1], key.shape[3], value.shape[3], key.dtype, key.device)
        return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None

    def check(self, config: Any) -> None:
        """Compare what ran with what the configuration announces."""
        layers = config.num_hidden_layers
        if len(self.shapes) != layers:
            self._refuse(f"uses transformers' attention interface in {len(self.shapes)} of its {layers} layers")
        announced = (getattr(config, "layer_types", None) or []).count("sliding_attention")
        if announced > self._windowed_layers:
            self._refuse("has sliding-window layers that do not pass their window on")

    def _check_options(self, options: dict[str, Any]) -> None:
        given = {name for name, option in options.items() if option is not None and option is not False}
        unknown = given - _HONOURED - _WITHOUT_EFFECT - ({"is_causal"} if options.get("is_causal") is True else set())
        if unknown:
            self._refuse(f"passes {', '.join(sorted(unknown))} to attention, which the engine does not know")

    def _refuse(self, what: str) -> None:
        raise UnsupportedModelError(f"{self._model_name} {what}")


def _plain_causal_mask(*, use_vmap: bool = False, attention_mask: object = None, **_: object) -> None:
    """Answer a model that asks for a mask: none is needed, unless it lays something of its own over the causal one."""
    if use_vmap or attention_mask is not None:
        raise ValueError("it lays a pattern of its own over the causal mask")


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__
