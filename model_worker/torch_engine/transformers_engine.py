"""The engine over `model.forward`: one ragged batch per step, through transformers' attention interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch import nn
from transformers import PreTrainedModel

from model_worker.engine import EngineSpec, Outcome, Segment
from model_worker.sequence import Extent
from model_worker.torch_engine.answers import answer_step
from model_worker.torch_engine.attention.kernel import AttentionKernel
from model_worker.torch_engine.attention.ragged import RaggedAttention
from model_worker.torch_engine.attention_probe import attention_function
from model_worker.torch_engine.forward_passes import HeadRow
from model_worker.torch_engine.kv_storage import KvStorage, LayerShape
from model_worker.torch_engine.lora_switch import LoraSwitch, by_adapter
from model_worker.torch_engine.out_of_memory import named_out_of_memory
from model_worker.torch_engine.step_layout import StepLayout


class TransformersEngine:
    """Implements `Engine`. Owns the model and the K/V storage; used from one thread only.

    `lora` switches the adapters of `model`, if it has any; `helpers` are awake while the model computes.

    Errors: OutOfMemory when the K/V storage does not fit, UnsupportedModelError.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: Mapping[nn.Module, LayerShape],
        spec: EngineSpec,
        kernel: AttentionKernel,
        lora: LoraSwitch | None = None,
        helpers: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.spec = spec
        self.lora = lora or LoraSwitch()
        self._helpers = helpers
        self._model = model
        # An index may be on the CPU whatever it picks from. Of a model spread over devices only accelerate knows where
        # the last hidden states are.
        spread = len({parameter.device for parameter in model.parameters()}) > 1
        self._rows_device = torch.device("cpu") if spread else model.device
        with named_out_of_memory():
            self._storage = KvStorage(list(layers.values()), spec.kv_capacity_tokens)
        self._attention = RaggedAttention(dict(zip(layers, self._storage.layers, strict=True)), kernel)
        self._held = ExitStack()
        self._held.enter_context(attention_function(model, self._attention))

    def step(self, segments: Sequence[Segment]) -> list[Outcome]:
        """Compute all `segments` as one ragged batch and draw one token for each that `draws`."""
        order = by_adapter(segments)
        outcomes: list[Outcome] = [None] * len(segments)
        for index, outcome in zip(order, self._step([segments[index] for index in order]), strict=True):
            outcomes[index] = outcome
        return outcomes

    def _step(self, segments: Sequence[Segment]) -> list[Outcome]:
        """`step`, with the segments of one adapter side by side."""
        with named_out_of_memory(), torch.inference_mode():
            return answer_step(segments, self._logits)

    def last_logits(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Compute `segments` like `step`, and return the logits after each last token: [segments, vocabulary].

        Errors: OutOfMemory.
        """
        with named_out_of_memory(), torch.inference_mode():
            return self._logits(segments, [HeadRow(place) for place in range(len(segments))])

    def copy_kv(self, source: Extent, target: Extent, tokens: int) -> None:
        """Copy the K/V of the first `tokens` tokens of `source` to the start of `target`. Errors: OutOfMemory."""
        with named_out_of_memory():
            self._storage.copy(source, target, tokens)

    def clear_kv(self, extent: Extent) -> None:
        """Zero `extent`."""
        self._storage.clear(extent)

    def close(self) -> None:
        """Free the storage and let the model go, with the attention it had before, whoever holds the engine."""
        self._held.close()
        self._attention.close()
        self.lora.close()
        self._storage.free()
        del self._model, self._attention
        if self.spec.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _logits(self, segments: Sequence[Segment], head_rows: Sequence[HeadRow]) -> torch.Tensor:
        """Compute `segments` in one call of the model, and return what `head_rows` ask for: [head rows, vocabulary]."""
        places = [row.place for row in head_rows]
        layout = StepLayout(segments, self._model.device)
        wanted = layout.last_rows[places] - torch.tensor([row.back for row in head_rows])
        kept = [segments[place] for place in places]
        with self._helpers(), self._attention.during(layout), self.lora.during(segments, kept):
            output = self._model(
                input_ids=layout.input_ids,
                position_ids=layout.position_ids,
                use_cache=False,
                logits_to_keep=wanted.to(self._rows_device),
            )
        logits: torch.Tensor = output.logits[0]
        return logits
