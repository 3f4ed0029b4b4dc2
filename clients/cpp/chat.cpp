// chat HOST:PORT [QUESTION]: stream one answer; then cancel a second one in the middle.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>

#include "tokenmill/v1/gateway.grpc.pb.h"

using namespace tokenmill::v1;
constexpr int kCancelAfterDeltas = 3;

ChatRequest Greedy(const std::string& question, int max_new_tokens) {
  ChatRequest request;
  ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content(question);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_new_tokens(max_new_tokens);
  return request;
}

grpc::Status PrintAnswer(InferenceService::Stub& gateway, grpc::ClientContext& context, const ChatRequest& request) {
  auto stream = gateway.StreamChat(&context, request);
  StreamChatResponse response;
  Finished finished;
  while (stream->Read(&response)) {
    if (response.has_delta()) std::cout << response.delta().text() << std::flush;
    if (response.has_finished()) finished = response.finished();
  }
  grpc::Status status = stream->Finish();
  if (status.ok() && !finished.has_finish()) return {grpc::DATA_LOSS, "the stream ended without a finish"};
  if (status.ok()) std::cout << "\nfinished: " << FinishReason_Name(finished.finish().reason()) << ", "
                             << finished.usage().completion_tokens() << " tokens" << std::endl;
  return status;
}

grpc::Status CancelInTheMiddle(InferenceService::Stub& gateway, grpc::ClientContext& context, ChatRequest request) {
  request.mutable_stopping()->set_ignore_eos(true);
  auto stream = gateway.StreamChat(&context, request);
  StreamChatResponse response;
  int deltas = 0;
  while (stream->Read(&response))
    if (response.has_delta() && ++deltas == kCancelAfterDeltas) context.TryCancel();
  grpc::Status status = stream->Finish();
  if (status.error_code() != grpc::CANCELLED) return status.ok() ? grpc::Status(grpc::DATA_LOSS, "ended early") : status;
  std::cout << "cancelled after " << deltas << " deltas" << std::endl;
  return grpc::Status::OK;
}

int main(int argc, char** argv) {
  const std::string address = argc > 1 ? argv[1] : "127.0.0.1:50051";
  const std::string question = argc > 2 ? argv[2] : "What is the capital of France?";
  auto gateway = InferenceService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  grpc::ClientContext first, second;
  for (grpc::ClientContext* context : {&first, &second})
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
  grpc::Status status = PrintAnswer(*gateway, first, Greedy(question, 64));
  if (status.ok()) status = CancelInTheMiddle(*gateway, second, Greedy(question, 4000));
  if (!status.ok()) std::cerr << "chat: " << status.error_message() << std::endl;
  return status.ok() ? 0 : 1;
}
