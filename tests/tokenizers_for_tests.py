"""Four small tokenizers of the families in use, built in the test from one multilingual text: same bytes every time.

Each has the special tokens of SPECIAL_TOKENS (skipped when decoding) and the added but ordinary token ADDED_TOKEN.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

BOS, EOS, TURN_START, TURN_END = "<s>", "</s>", "<|turn_start|>", "<|turn_end|>"
SPECIAL_TOKENS = (BOS, EOS, TURN_START, TURN_END)
ADDED_TOKEN = "<tool_call>"

TEXT = (
    "The quick brown fox doesn't jump over the lazy dog. It's a test, isn't it? I'm sure they've seen 1,234 of them!",
    "A list of colors: red, blue, green, yellow\nand   then\tsome white space.\n\n    indented = call(value)[0]",
    "Portugal é um país; o avião não chegou à estação. Größe, Straße, naïve café, Ærøskøbing, žluťoučký kůň.",
    "中文字符不用空格分开。日本語のテキストもそうです。한국어 문장도 있습니다.",
    "Привет, как дела? Γειά σου Κόσμε. שלום עולם. السلام عليكم. नमस्ते दुनिया. สวัสดีชาวโลก",  # noqa: RUF001 - Greek on purpose
    "Emoji: 😀 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇵🇹 and combining marks: e\u0301 n\u0303 o\u0308 Z\u0336a\u0334l\u0337g\u0335o",
)

_BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
_UNKNOWN = "<unk>"


def _with_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(ADDED_TOKEN, special=False, normalized=False)])
    return tokenizer


def _numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def byte_level_tokenizer() -> Tokenizer:
    """GPT-2 style: BPE over bytes; a token may end in the middle of a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=420, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    return _with_added_tokens(tokenizer)


def byte_fallback_tokenizer() -> Tokenizer:
    """Llama-2 and Gemma style: BPE over characters, `<0xXX>` tokens for those it lacks, a leading space stripped."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(TEXT[:3], trainers.BpeTrainer(vocab_size=200, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    # The trainer would make special tokens of the byte tokens, and special tokens are skipped: they go in afterwards.
    vocabulary = _numbered([_UNKNOWN, *_BYTE_TOKENS, "▁", *sorted(model["vocab"], key=model["vocab"].__getitem__)])
    merges = [(left, right) for left, right in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=_UNKNOWN, byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _with_added_tokens(tokenizer)


def unigram_tokenizer() -> Tokenizer:
    """SentencePiece unigram style: whole words by frequency, byte fallback, Metaspace."""
    words = Counter("▁" + word for line in TEXT for word in line.split())
    characters = Counter(character for line in TEXT[:3] for character in line if not character.isspace())
    frequencies = words + characters
    total = sum(frequencies.values())
    ranked = sorted(frequencies.items(), key=lambda entry: (-entry[1], entry[0]))
    pieces = [(_UNKNOWN, 0.0), *((token, -12.0) for token in _BYTE_TOKENS), ("▁", -4.0)]
    pieces += [(token, math.log(count / total)) for token, count in ranked]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _with_added_tokens(tokenizer)


def word_piece_tokenizer() -> Tokenizer:
    """BERT style: words, `##` continuations, and the clean-up of spaces before punctuation."""
    splitter = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for line in TEXT for word, _ in splitter.pre_tokenize_str(line)})
    characters = sorted({character for word in words for character in word})
    vocabulary = _numbered([_UNKNOWN, *characters, *(f"##{character}" for character in characters), *words, "##ing"])
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return _with_added_tokens(tokenizer)


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level_tokenizer,
    "byte-fallback": byte_fallback_tokenizer,
    "unigram": unigram_tokenizer,
    "word-piece": word_piece_tokenizer,
}
