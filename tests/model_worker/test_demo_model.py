"""The demo model under every scheme that runs on a CPU: it loads, passes its self-test and still knows its capitals."""

import pytest
import torch
from tokenizers import Tokenizer

from model_worker.engine import Segment
from model_worker.sequence import Extent
from model_worker.torch_engine.loader import LoadSettings, load_engine
from tests.model_worker.tiny_models import Row, drive, sequence_of

pytestmark = pytest.mark.model
CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("quantization", ["none", "int8", "bnb-nf4", "bnb-int8"])
@pytest.mark.timeout(300)
def test_the_capital_of_france_survives_quantization(demo_model, quantization):
    tokenizer = Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    prompt = tokenizer.encode(CHAT, add_special_tokens=False).ids
    settings = LoadSettings(model=demo_model, device="cpu", quantization=quantization, kv_cache_memory=2**26, threads=1)
    engine = load_engine(settings, lambda _: None)
    assert engine.spec.eos_token_ids == {2}
    [ids] = drive(engine, [Row(sequence_of(prompt, Extent(0, 128)), 12)])
    engine.close()
    answer = tokenizer.decode(ids)
    print(f"{quantization}: {answer!r}")
    assert "Paris" in answer


@pytest.mark.timeout(300)
def test_an_int8_answer_has_the_same_bits_alone_and_among_others_in_chunks(demo_model):
    tokenizer = Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    text = (demo_model / "config.json").read_text()
    prompts = [tokenizer.encode(text[start:]).ids[: 20 + 7 * start] for start in range(4)]
    settings = LoadSettings(model=demo_model, device="cpu", quantization="int8", kv_cache_memory=2**26, threads=1)
    engine = load_engine(settings, lambda _: None)
    try:
        alone = [
            engine.last_logits([Segment(sequence_of(prompt, Extent(0, 64)), 0, len(prompt), draws=False)])[0]
            for prompt in prompts
        ]
        rows = [sequence_of(prompt, Extent(64 * index, 64)) for index, prompt in enumerate(prompts)]
        engine.last_logits([Segment(row, 0, 13, draws=False) for row in rows])
        engine.last_logits([Segment(row, 13, len(row.ids) - 14, draws=False) for row in rows])
        together = engine.last_logits([Segment(row, len(row.ids) - 1, 1, draws=False) for row in rows])
    finally:
        engine.close()
    assert torch.equal(together, torch.stack(alone))
