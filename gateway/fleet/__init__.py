"""The model workers behind the gateway: which there are, how they are, who takes a request, and who takes it over."""
