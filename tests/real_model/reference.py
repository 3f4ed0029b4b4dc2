"""What `transformers.generate()` says, run alone on one prompt: the oracle of exactness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Two logits closer than this may change places in float32 when the batch does; see ARCHITECTURE.md.
TIE = 1e-4


@dataclass(frozen=True, slots=True)
class Reference:
    """The demo model as transformers runs it, in float32."""

    tokenizer: Any
    model: Any

    @classmethod
    def load(cls, folder: Path) -> Reference:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()

        torch.set_num_threads(1)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return cls(tokenizer, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))

    def chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]

    def prompt_ids(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def greedy(self, ids: list[int], max_new_tokens: int) -> list[int]:
        """The greedy continuation of `ids`, alone."""
        import torch

        prompt = torch.tensor([ids])
        output = self.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=max_new_tokens, do_sample=False
        )
        return output[0, len(ids) :].tolist()

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def is_tie(self, ids: list[int], expected: int, found: int) -> bool:
        """Whether the reference itself can hardly tell `expected` and `found` apart after `ids`."""
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([ids])).logits[0, -1]
        return abs(float(logits[expected] - logits[found])) < TIE

    def assert_same(self, prompt: list[int], expected: list[int], found: list[int]) -> int:
        """`found` is `expected`, or leaves it at a tie; returns 1 for a tie."""
        if found == expected:
            return 0
        at = next(i for i, (one, other) in enumerate(zip([*expected, -1], [*found, -1], strict=False)) if one != other)
        assert at < min(len(expected), len(found)), f"one ends early: {expected} {found}"
        assert self.is_tie([*prompt, *expected[:at]], expected[at], found[at]), f"differs at {at}: {expected} {found}"
        return 1
