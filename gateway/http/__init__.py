"""The gateway over HTTP: OpenAI's API in front of the same pipeline that answers gRPC."""
