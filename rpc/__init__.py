"""How every service of ours is served and called, and what the contract's values mean in Python."""

import os

# Without this gRPC logs a line of its own, not ours to format, whenever a service starts a child process. It reads the
# variable when it is first imported: a service that starts children imports `rpc` before `grpc`.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
