"""The model worker: token tensors in, streamed token ids out; quantized generation with continuous batching."""

import rpc as rpc  # before grpcio: it quiets it
