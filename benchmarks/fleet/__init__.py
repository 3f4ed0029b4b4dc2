"""Who takes a request: policies compared by simulation, without sockets or models."""
