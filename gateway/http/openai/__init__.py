"""OpenAI's requests and answers, as this gateway understands them."""
