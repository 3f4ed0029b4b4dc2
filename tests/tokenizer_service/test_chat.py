from __future__ import annotations

import pytest

from tokenizer_service.chat import Chat, Message, Tool, ToolCall
from tokenizer_service.errors import InvalidInput, NoChatTemplate
from tokenizer_service.templates.chat_templates import ChatTemplates

USER = Message("user", "hi")


@pytest.mark.parametrize(
    ("chat", "field"),
    [
        (Chat([]), "messages"),
        (Chat([USER, Message("User", "hi")]), "messages[1].role"),
        (Chat([Message("", "hi")]), "messages[0].role"),
        (Chat([Message("user", "hi", tool_calls=(ToolCall("f", {}),))]), "messages[0].tool_calls"),
        (Chat([Message("user", "hi", tool_call_id="1")]), "messages[0].tool_call_id"),
        (Chat([USER], add_generation_prompt=True, continue_final_message=True), "continue_final_message"),
        (Chat([USER], template_kwargs={"messages": []}), "template_kwargs.messages"),
        (Chat([USER], template_kwargs={"bos_token": "x"}), "template_kwargs.bos_token"),
    ],
)
def test_a_chat_that_cannot_be_rendered_is_refused_by_field(chat, field):
    with pytest.raises(InvalidInput) as refusal:
        chat.check()
    assert refusal.value.field == field


def test_the_generation_prompt_is_the_default_unless_the_last_message_goes_on():
    assert Chat([USER]).opens_assistant_turn
    assert not Chat([USER], continue_final_message=True).opens_assistant_turn
    assert not Chat([USER], add_generation_prompt=False).opens_assistant_turn


def test_templates_see_the_form_they_expect_and_every_callers_string_hidden():
    call = ToolCall("f", {"x": ["y"]}, id="1")
    tool = Tool("f", "does", {"type": "object"})
    messages = [Message("assistant", "hi", name="bob", tool_calls=(call,)), Message("tool", "r", tool_call_id="1")]
    seen = Chat(messages, (tool,), {"flag": "on"}).variables(lambda value: ("hidden", value))
    assert seen["messages"][0] == {
        "role": "assistant",
        "content": ("hidden", "hi"),
        "name": ("hidden", "bob"),
        "tool_calls": [
            {
                "id": ("hidden", "1"),
                "type": "function",
                "function": {"name": ("hidden", "f"), "arguments": ("hidden", {"x": ["y"]})},
            }
        ],
    }
    assert seen["messages"][1] == {"role": "tool", "content": ("hidden", "r"), "tool_call_id": ("hidden", "1")}
    function = {"name": "f", "description": "does", "parameters": {"type": "object"}}
    hidden = {key: ("hidden", value) for key, value in function.items()}
    assert seen["tools"] == [{"type": "function", "function": hidden}]
    assert (seen["flag"], seen["add_generation_prompt"]) == (("hidden", "on"), True)
    assert Chat([USER]).variables(lambda value: value)["tools"] is None


def test_named_templates_are_chosen_as_in_transformers():
    templates = ChatTemplates({"default": "D", "tool_use": "T"})
    assert templates.choose(with_tools=True).source == "T"
    assert templates.choose(with_tools=False).source == "D"
    assert ChatTemplates("D").choose(with_tools=True).source == "D"
    assert templates.fingerprint == ChatTemplates("D").fingerprint != ChatTemplates("E").fingerprint


@pytest.mark.parametrize("templates", [None, "", {}, {"other": "x"}])
def test_a_model_without_a_template_refuses_chats(templates):
    assert ChatTemplates(templates).fingerprint == ""
    with pytest.raises(NoChatTemplate, match="no chat template"):
        ChatTemplates(templates).choose(with_tools=False)
