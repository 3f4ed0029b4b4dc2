"""Chat templates in the public formats of common model families, with the tokens each expects its tokenizer to have."""

# ruff: noqa: RUF001 - DeepSeek's tokens are written with full-width bars

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChatFormat:
    source: str
    special: tuple[str, ...]  # special added tokens
    added: tuple[str, ...] = ()  # added tokens that are not special
    bos: str | None = None
    eos: str | None = None
    has_system: bool = True
    has_tools: bool = False
    strips_right: bool = False  # special tokens swallow the white space after them


CHATML = ChatFormat(
    special=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    eos="<|im_end|>",
    source="""{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}""",
)

SMOLLM = ChatFormat(
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>"),
    bos="<|im_start|>",
    eos="<|im_end|>",
    source="""{% for message in messages %}
{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>' ~ '\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
)

LLAMA_2 = ChatFormat(
    special=("<unk>", "<s>", "</s>"),
    bos="<s>",
    eos="</s>",
    source="""{%- set system = '' %}
{%- if messages[0].role == 'system' %}
{%- set system = '<<SYS>>\\n' ~ messages[0].content ~ '\\n<</SYS>>\\n\\n' %}{% set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('user and assistant take turns') }}{% endif %}
{%- if message.role == 'user' %}
{{- bos_token ~ '[INST] ' ~ (system if loop.first else '') ~ message.content.strip() ~ ' [/INST]' }}
{%- else %}{{- ' ' ~ message.content | trim ~ ' ' ~ eos_token }}{% endif %}
{%- endfor %}""",
)

LLAMA_3 = ChatFormat(
    special=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    bos="<|begin_of_text|>",
    eos="<|eot_id|>",
    has_tools=True,
    source="""{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' ~ (message.content | tojson) ~ '<|eot_id|>' }}
{%- elif 'tool_calls' in message %}
{%- set call = message.tool_calls[0].function %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' ~ call.name ~ '", "parameters": ' }}
{{- call.arguments | tojson }}{{- '}<|eot_id|>' }}
{%- else %}
{{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' ~ message['content'] | trim ~ '<|eot_id|>' }}
{%- if loop.first and tools %}{% for tool in tools %}{{ tool | tojson(indent=4) }}{{ '\\n\\n' }}{% endfor %}{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}""",
)

MISTRAL = ChatFormat(
    special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    bos="<s>",
    eos="</s>",
    has_tools=True,
    source="""{{ bos_token }}
{%- if tools %}{{ '[AVAILABLE_TOOLS] ' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
{%- if message.role in ('user', 'system') %}{{ '[INST] ' ~ message.content ~ '[/INST]' }}
{%- elif message.role == 'assistant' and message.tool_calls %}
{{- '[TOOL_CALLS] [' }}{% for call in message.tool_calls %}{{ call.function | tojson }}{% endfor %}{{ ']' ~ eos_token }}
{%- elif message.role == 'tool' %}{{ '[INST] result: ' ~ message.content ~ '[/INST]' }}
{%- else %}{{ ' ' ~ message.content ~ eos_token }}{% endif %}
{%- endfor %}""",
)

ZEPHYR = ChatFormat(
    special=("<unk>", "<s>", "</s>"),
    bos="<s>",
    eos="</s>",
    source="""{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% else %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
)

GEMMA = ChatFormat(
    special=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    added=("\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "<table>"),
    bos="<bos>",
    eos="<eos>",
    has_system=False,
    source="""{{ bos_token }}{% for message in messages %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
)

PHI_3 = ChatFormat(
    special=("<unk>", "<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    bos="<s>",
    eos="<|endoftext|>",
    strips_right=True,
    source="""{% for message in messages %}
{{ '<|' + message['role'] + '|>' + '\\n' + message['content'] + '<|end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}""",
)

QWEN = ChatFormat(
    special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    added=("<tool_call>", "</tool_call>", "<think>", "</think>"),
    eos="<|im_end|>",
    has_tools=True,
    source="""{%- if tools %}
{{- '<|im_start|>system\\n# Tools\\nCall them inside <tool_call></tool_call>:' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
)

VICUNA = ChatFormat(
    special=("<unk>", "<s>", "</s>"),
    bos="<s>",
    eos="</s>",
    source="""{{ bos_token }}{% for message in messages %}
{%- if message.role == 'system' %}{{ message.content ~ ' ' }}
{%- elif message.role == 'user' %}{{ 'USER: ' ~ message.content ~ ' ' }}
{%- else %}{{ 'ASSISTANT: ' ~ message.content ~ eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}""",
)

DEEPSEEK = ChatFormat(
    special=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    bos="<｜begin▁of▁sentence｜>",
    eos="<｜end▁of▁sentence｜>",
    source="""{%- set ns = namespace(system='') -%}
{%- for message in messages if message.role == 'system' -%}
{%- set ns.system = ns.system ~ message.content -%}
{%- endfor -%}
{{- bos_token ~ ns.system -}}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{- '<｜User｜>' ~ message.content -}}
{%- elif message.role == 'assistant' -%}
{%- set content = message.content.split('</think>')[-1] if '</think>' in message.content else message.content -%}
{{- '<｜Assistant｜>' ~ content ~ '<｜end▁of▁sentence｜>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜><think>\\n' -}}{%- endif -%}""",
)

TULU = ChatFormat(
    special=("<|endoftext|>", "<|pad|>"),
    bos="<|endoftext|>",
    eos="<|endoftext|>",
    source="""{{ bos_token }}{% for message in messages %}
{% if message.role == 'assistant' %}
{{ '<|assistant|>\\n' }}{% generation %}{{ message.content ~ eos_token }}{% endgeneration %}
{% if not loop.last %}{{ '\\n' }}{% endif %}
{% else %}
{{ '<|' ~ message.role ~ '|>\\n' ~ message.content ~ '\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}""",
)

COMMAND_R = ChatFormat(
    special=(
        "<PAD>",
        "<BOS_TOKEN>",
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
    ),
    bos="<BOS_TOKEN>",
    eos="<|END_OF_TURN_TOKEN|>",
    source="""{{ bos_token }}{% set names = {'user': 'USER', 'assistant': 'CHATBOT', 'system': 'SYSTEM'} %}
{%- for message in messages %}
{{- '<|START_OF_TURN_TOKEN|><|' ~ names[message.role] ~ '_TOKEN|>' }}
{{- message.content.strip() ~ '<|END_OF_TURN_TOKEN|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}""",
)

GRANITE = ChatFormat(
    special=("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
    bos="<|end_of_text|>",
    eos="<|end_of_text|>",
    has_tools=True,
    source="""{%- if messages[0].role != 'system' %}
{{- '<|start_of_role|>system<|end_of_role|>Today is ' ~ strftime_now('%B %d, %Y') ~ '.<|end_of_text|>\\n' }}
{%- endif %}
{%- if tools %}
{{- '<|start_of_role|>tools<|end_of_role|>' ~ tools | tojson(indent=2) ~ '<|end_of_text|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.content == 'skip me' %}{% continue %}{% endif %}
{{- '<|start_of_role|>' ~ message.role ~ '<|end_of_role|>' ~ message.content ~ '<|end_of_text|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}""",
)

FORMATS = {
    "chatml": CHATML,
    "smollm": SMOLLM,
    "llama-2": LLAMA_2,
    "llama-3": LLAMA_3,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "gemma": GEMMA,
    "phi-3": PHI_3,
    "qwen": QWEN,
    "vicuna": VICUNA,
    "deepseek": DEEPSEEK,
    "tulu": TULU,
    "command-r": COMMAND_R,
    "granite": GRANITE,
}
