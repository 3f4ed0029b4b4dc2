"""Chat templates: rendered sandboxed, in processes that can be killed."""
