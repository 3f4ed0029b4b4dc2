"""The tokenizer service: chat templates, encoding, decoding, and the tokenizer itself as a file. Never torch."""

import rpc as rpc  # before grpcio: it quiets it
