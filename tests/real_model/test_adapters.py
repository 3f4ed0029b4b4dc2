"""Chats for two adapters and their base model at once: each as if its adapter were merged into the model's weights."""

from __future__ import annotations

import pytest

from tests.model_worker.lora_folders import merge, write_adapter
from tests.real_model.prompts import CHATS, chat_request
from tests.real_model.reference import Reference
from tests.real_model.stack import EXACT, MODEL, running_stack
from tokenmill.v1 import generation_pb2

pytestmark = pytest.mark.model

CHATS_OF = {MODEL: CHATS[:3], "sql": CHATS[3:6], "legal": CHATS[6:9]}


def test_chats_of_adapters_and_base_at_once_are_what_generate_says_of_the_merged_models(
    demo_model, reference, tmp_path
):
    folders = {
        "sql": write_adapter(tmp_path / "sql", reference.model, ("q_proj", "v_proj", "down_proj"), 1, spread=0.05),
        "legal": write_adapter(tmp_path / "legal", reference.model, ("k_proj", "o_proj", "up_proj"), 2, spread=0.05),
    }
    requests = [
        chat_request(
            messages,
            model=name,
            sampling=generation_pb2.SamplingParams(temperature=0),
            stopping=generation_pb2.StoppingCriteria(max_new_tokens=tokens),
            output=generation_pb2.OutputOptions(token_ids=True),
        )
        for name, chats in CHATS_OF.items()
        for messages, tokens in chats
    ]
    options = [argument for name, folder in folders.items() for argument in ("--lora-modules", f"{name}={folder}")]
    with running_stack(demo_model, *EXACT, *options) as caller:
        found = iter([outputs.ids[0] for outputs in caller.at_once(requests)])
    ties, changed = 0, 0
    for name, chats in CHATS_OF.items():
        oracle = Reference.load(demo_model) if name in folders else reference
        if name in folders:
            merge(oracle.model, folders[name])
        for messages, tokens in chats:
            prompt, ids = reference.chat_ids(messages), next(found)
            ties += oracle.assert_same(prompt, oracle.greedy(prompt, tokens), ids)
            changed += ids != reference.greedy(prompt, tokens)
    assert changed >= 4, "adapters that change nothing show nothing"
    print(f"\n{len(requests)} texts compared, {ties} ties")
