"""What a request is: so many rows, so many tokens. First estimated, to queue by; known once it is encoded."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.generation import Generation
from gateway.models import ServedModel
from gateway.row_plan import RowPlan

# Of English text; other languages and code have fewer. It is corrected as soon as the text is encoded.
BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Work:
    """Rows, and tokens: those of each prompt once, and of every output all that it may generate."""

    rows: int = 0
    tokens: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.rows + other.rows, self.tokens + other.tokens)

    def __sub__(self, other: Work) -> Work:
        return Work(self.rows - other.rows, self.tokens - other.tokens)


def estimated(generation: Generation, model: ServedModel) -> Work:
    """Before anything is encoded: ids are counted, text by its bytes. No prompt is longer than the context."""
    if generation.token_prompts:
        prompts = [len(ids) for ids in generation.token_prompts]
    else:
        each = generation.prompt_bytes // (BYTES_PER_TOKEN * generation.prompt_count) + 1
        prompts = [min(each, generation.truncate_prompt_tokens or each)] * generation.prompt_count
    prompts = [min(tokens, model.context_length - 1) for tokens in prompts]
    limits = [model.max_new_tokens(generation.stopping.max_new_tokens, tokens) for tokens in prompts]
    return Work(len(prompts) * generation.n, sum(prompts) + generation.n * sum(limits))


def planned(plan: RowPlan) -> Work:
    """Of a request that is encoded."""
    samples = len(plan.rows) // len(plan.prompt_tokens)
    return Work(len(plan.rows), sum(plan.prompt_tokens) + samples * sum(plan.max_new_tokens))
