"""The tokenizer service: chat templates, encoding, decoding, and the tokenizer itself as a file. Never torch."""
