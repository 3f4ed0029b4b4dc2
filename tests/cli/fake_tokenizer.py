"""A tokenizer service that does nothing."""

from tests.cli.fake_service import FakeService, main

if __name__ == "__main__":
    main(FakeService)
