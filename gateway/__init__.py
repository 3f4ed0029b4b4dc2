"""The gateway: text in, streamed text out; between it and the model there are only tokens."""

import rpc as rpc  # before grpcio: it quiets it
