"""What is behind the gateway: which services there are, how they are, who takes a request, and who takes it over."""
