"""The names that callers and external checks are bound to: they may be added to, never changed."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import FieldDescriptor

from tokenmill.v1 import gateway_pb2, generation_pb2, tokenizer_pb2, worker_pb2

FILES = {file.DESCRIPTOR.name: file.DESCRIPTOR for file in (generation_pb2, gateway_pb2, tokenizer_pb2, worker_pb2)}

# Service → method → request, response; "stream " where there is one.
SERVICES = {
    "InferenceService": {
        "Generate": ("GenerateRequest", "GenerateResponse"),
        "StreamGenerate": ("GenerateRequest", "stream StreamGenerateResponse"),
        "Chat": ("ChatRequest", "ChatResponse"),
        "StreamChat": ("ChatRequest", "stream StreamChatResponse"),
        "CountTokens": ("CountTokensRequest", "CountTokensResponse"),
        "ListModels": ("ListModelsRequest", "ListModelsResponse"),
        "GetModel": ("GetModelRequest", "GetModelResponse"),
    },
    "TokenizerService": {
        "Encode": ("EncodeRequest", "EncodeResponse"),
        "Decode": ("DecodeRequest", "DecodeResponse"),
        "GetTokenizer": ("GetTokenizerRequest", "stream GetTokenizerResponse"),
    },
    "WorkerService": {
        "Generate": ("stream WorkerServiceGenerateRequest", "stream WorkerServiceGenerateResponse"),
        "GenerateMany": ("stream GenerateManyRequest", "stream GenerateManyResponse"),
        "GetWorker": ("GetWorkerRequest", "GetWorkerResponse"),
        "WatchLoad": ("WatchLoadRequest", "stream WatchLoadResponse"),
    },
}

# Message → fields, in the contract's words: "?" is optional, "*" repeated, "| name" the oneof it belongs to.
MESSAGES = {
    # generation.proto
    "SamplingParams": "temperature? top_p? top_k? min_p? typical_p? repetition_penalty? presence_penalty?"
    " frequency_penalty? seed? logit_bias*",
    "StoppingCriteria": "max_new_tokens? min_new_tokens? stop_strings* stop_token_ids* include_stop ignore_eos"
    " time_limit",
    "OutputOptions": "logprobs top_logprobs prompt_logprobs token_ids keep_special_tokens",
    "ResponseFormat": "json_object|format json_schema|format regex|format choice|format grammar|format",
    "Finish": "reason stop_string|matched stop_token_id|matched seed",
    "OutputError": "code reason message retry_delay",
    "Usage": "prompt_tokens cached_prompt_tokens completion_tokens",
    "Timing": "queue prefill time_to_first_token decode total",
    "TokenLogprob": "token_id text logprob rank alternatives*",
    "TokenTensor": "rows width input_ids attention_mask",
    # gateway.proto
    "TextPrompts": "texts*",
    "TokenIds": "ids*",
    "TokenPrompts": "prompts*",
    "GenerateRequest": "model prompts|input token_prompts|input n? sampling stopping output response_format priority"
    " cache_salt parse_special_tokens add_special_tokens? truncate_prompt_tokens?",
    "ChatMessage": "role content name tool_calls* tool_call_id",
    "ChatRequest": "model messages* tools* template_kwargs add_generation_prompt? continue_final_message n? sampling"
    " stopping output response_format priority cache_salt parse_special_tokens add_special_tokens?"
    " truncate_prompt_tokens?",
    "GenerateResponse": "outputs* usage",
    "ChatResponse": "outputs* usage",
    "Output": "index text token_ids* logprobs* finish|result error|result usage timing prompt_logprobs*",
    "StreamGenerateResponse": "started|event delta|event finished|event failed|event",
    "StreamChatResponse": "started|event delta|event finished|event failed|event",
    "Started": "sampling",
    "Delta": "index text token_ids* logprobs* prompt_logprobs*",
    "Finished": "index finish usage timing",
    "Failed": "index error",
    # tokenizer.proto
    "EncodeRequest": "model prompts|input chat|input offsets",
    "EncodeResponse": "tokens token_counts* vocabulary_fingerprint template_fingerprint",
    "DecodeRequest": "model sequences*",
    "GetTokenizerRequest": "model",
    "GetTokenizerResponse": "info|part chunk|part sha256|part",
    # worker.proto
    "WorkerServiceGenerateRequest": "start|message stop_row|message",
    "Start": "tokens rows* model vocabulary_fingerprint",
    "StopRow": "row",
    "RowParams": "sampling stop_token_ids* output seed? generated_prefix cache_salt priority",
    "WorkerServiceGenerateResponse": "events*",
    "StartCall": "start timeout request_id",
    "CallRequest": "call start|message stop_row|message cancel|message",
    "GenerateManyRequest": "calls* responses_read",
    "CallEnd": "error field",
    "CallResponse": "call events* end",
    "GenerateManyResponse": "calls*",
    "RowEvent": "row tokens|event finished|event failed|event prompt_logprobs|event",
    "RowEvent.Tokens": "ids logprobs*",
    "RowEvent.PromptLogprobs": "logprobs*",
    "GetWorkerResponse": "worker_id instance_id model adapters* quantization device context_length"
    " vocabulary_fingerprint api_revision progress",
    "LoadReport": "running waiting queued_prompt_tokens kv_tokens_used kv_tokens_total tokens_per_second step"
    " step_started_ago",
}

TYPES = {
    "SamplingParams": {"temperature": "float", "top_k": "int32", "seed": "uint64"},
    "Finish": {"stop_token_id": "uint32", "seed": "uint64"},
    "TokenTensor": {"rows": "uint32", "width": "uint32", "input_ids": "bytes", "attention_mask": "bytes"},
    "TokenIds": {"ids": "uint32"},
    "TokenLogprob": {"token_id": "uint32", "text": "bytes", "logprob": "float", "rank": "int32"},
    "StopRow": {"row": "int32"},
    "RowEvent.Tokens": {"ids": "bytes"},
    "RowParams": {"generated_prefix": "int32"},
}

FINISH_REASONS = {
    "FINISH_REASON_UNSPECIFIED": 0,
    "FINISH_REASON_END_OF_SEQUENCE": 1,
    "FINISH_REASON_STOP_STRING": 2,
    "FINISH_REASON_STOP_TOKEN": 3,
    "FINISH_REASON_MAX_NEW_TOKENS": 4,
    "FINISH_REASON_CONTEXT_LENGTH": 5,
    "FINISH_REASON_TIME_LIMIT": 6,
}


def message(name: str):
    outer, _, inner = name.partition(".")
    found = next(file.message_types_by_name[outer] for file in FILES.values() if outer in file.message_types_by_name)
    return found.nested_types_by_name[inner] if inner else found


def in_words(field: FieldDescriptor) -> str:
    if field.is_repeated:
        return f"{field.name}*"
    oneof = field.containing_oneof
    if oneof is None:
        return field.name
    return f"{field.name}?" if oneof.name == f"_{field.name}" else f"{field.name}|{oneof.name}"


def test_the_package_and_the_files():
    assert set(FILES) == {f"tokenmill/v1/{name}.proto" for name in ("generation", "gateway", "tokenizer", "worker")}
    assert {file.package for file in FILES.values()} == {"tokenmill.v1"}


def test_the_services_and_their_methods():
    services = [service for file in FILES.values() for service in file.services_by_name.values()]
    found = {
        service.name: {
            method.name: (
                "stream " * method.client_streaming + method.input_type.name,
                "stream " * method.server_streaming + method.output_type.name,
            )
            for method in service.methods
        }
        for service in services
    }
    assert found == SERVICES


@pytest.mark.parametrize(("name", "fields"), MESSAGES.items(), ids=MESSAGES)
def test_a_message_has_its_fields(name, fields):
    assert set(fields.split()) <= {in_words(field) for field in message(name).fields}


@pytest.mark.parametrize(("name", "types"), TYPES.items(), ids=TYPES)
def test_a_field_has_its_type(name, types):
    fields = message(name).fields_by_name
    names = {
        getattr(FieldDescriptor, f"TYPE_{kind.upper()}"): kind
        for kind in ("float", "int32", "uint32", "uint64", "bytes")
    }
    assert {field: names[fields[field].type] for field in types} == types


def test_logit_bias_maps_token_ids_to_numbers():
    entry = message("SamplingParams").fields_by_name["logit_bias"].message_type
    assert entry.fields_by_name["key"].type == FieldDescriptor.TYPE_UINT32
    assert entry.fields_by_name["value"].type == FieldDescriptor.TYPE_FLOAT


def test_the_finish_reasons_and_their_numbers():
    values = FILES["tokenmill/v1/generation.proto"].enum_types_by_name["FinishReason"].values
    assert {value.name: value.number for value in values} == FINISH_REASONS


def test_a_stream_of_reports_carries_the_load():
    assert message("WatchLoadResponse").fields_by_name["load"].message_type is message("LoadReport")


def test_both_streams_have_the_same_events():
    first, second = message("StreamGenerateResponse").fields, message("StreamChatResponse").fields
    assert [(f.name, f.number, f.message_type) for f in first] == [(f.name, f.number, f.message_type) for f in second]
