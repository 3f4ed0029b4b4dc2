"""How every service of ours is served and called, and what the contract's values mean in Python."""

import os

# grpcio logs lines of its own, not ours to format. It reads these variables when it is first imported, so each service
# imports `rpc` before anything else.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # else one whenever a service starts a child process
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # else one for every handshake that fails: anybody could fill the log
