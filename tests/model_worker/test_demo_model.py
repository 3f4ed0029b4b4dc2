"""The demo model under every scheme that runs on a CPU: it loads, passes its self-test and still knows its capitals."""

import pytest
from tokenizers import Tokenizer

from model_worker.loader import LoadSettings, load_engine
from model_worker.sequence import Extent
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
