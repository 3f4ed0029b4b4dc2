"""A model worker that only says how far it has come."""

import grpc

from tests.cli.fake_service import FakeService, main
from tokenmill.v1 import worker_pb2, worker_pb2_grpc


class FakeWorker(FakeService, worker_pb2_grpc.WorkerServiceServicer):
    """Answers GetWorker."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        worker_pb2_grpc.add_WorkerServiceServicer_to_server(self, server)

    async def GetWorker(
        self, request: worker_pb2.GetWorkerRequest, context: grpc.aio.ServicerContext
    ) -> worker_pb2.GetWorkerResponse:
        """Half way through, for ever."""
        return worker_pb2.GetWorkerResponse(progress=worker_pb2.LoadProgress(stage="quantizing", fraction=0.5))


if __name__ == "__main__":
    main(FakeWorker)
