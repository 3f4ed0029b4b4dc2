"""A gateway with one answer."""

import grpc

from tests.cli.fake_service import Behaviour, FakeService, main
from tests.clients.canned_gateway import CannedInference
from tokenmill.v1 import gateway_pb2_grpc


class FakeGateway(FakeService):
    """Answers StreamChat."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        self.inference = CannedInference()

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        gateway_pb2_grpc.add_InferenceServiceServicer_to_server(self.inference, server)


if __name__ == "__main__":
    main(FakeGateway)
