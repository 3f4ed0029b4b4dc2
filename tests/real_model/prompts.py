"""Sixteen chats of different lengths, each with how many tokens to generate."""

from __future__ import annotations

from tokenmill.v1 import gateway_pb2

LONG = (
    "A lighthouse keeper wrote in his log every evening: the wind, the ships that passed, the state of the lamp. "
    "After forty years the books filled a whole wall. "
)

_QUESTIONS = [
    ("What is the capital of France?", 16),
    ("Write one sentence about the sea.", 24),
    ("Count from one to ten.", 32),
    ("Name three colors.", 20),
    ("Translate 'good morning' into Spanish.", 16),
    ("What is 2 + 2?", 12),
    ("Tell me a short story about a dog.", 48),
    ("Why is the sky blue?", 40),
    (LONG + "What did the keeper write about?", 24),
    ("Give me a recipe for pancakes.", 36),
    (LONG * 4 + "How many years did he write?", 16),
    ("Hi", 8),
    ("Explique la photosynthèse en une phrase. 🌱", 24),
    ("def add(a, b):\n    return", 20),
    ("List the days of the week.", 28),
    ("Who are you?", 16),
]
CHATS = [([{"role": "user", "content": question}], tokens) for question, tokens in _QUESTIONS]


def chat_request(messages: list[dict[str, str]], **fields: object) -> gateway_pb2.ChatRequest:
    return gateway_pb2.ChatRequest(messages=[gateway_pb2.ChatMessage(**message) for message in messages], **fields)
