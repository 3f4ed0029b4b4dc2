// node chat.mjs HOST:PORT [QUESTION]: stream one answer; then cancel a second one in the middle.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const CANCEL_AFTER_DELTAS = 3;
const [address, question = "What is the capital of France?"] = process.argv.slice(2);

const protos = fileURLToPath(new URL("../../protos", import.meta.url));
// keepCase: fields keep the contract's names. longs: a uint64 such as a seed does not fit a JavaScript number.
const definition = loadSync("tokenmill/v1/gateway.proto", { includeDirs: [protos], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true });
const { InferenceService } = grpc.loadPackageDefinition(definition).tokenmill.v1;
const gateway = new InferenceService(address, grpc.credentials.createInsecure());

function streamChat(stopping) {
  const request = { messages: [{ role: "user", content: question }], sampling: { temperature: 0 }, stopping };
  return gateway.StreamChat(request, { deadline: Date.now() + 120_000 });
}

async function printAnswer() {
  let finished;
  for await (const { event, delta, finished: end } of streamChat({ max_new_tokens: 64 })) {
    if (event === "delta") process.stdout.write(delta.text);
    if (event === "finished") finished = end;
  }
  if (!finished) throw new Error("the stream ended without a finish");
  console.log(`\nfinished: ${finished.finish.reason}, ${finished.usage.completion_tokens} tokens`);
}

async function cancelInTheMiddle() {
  const call = streamChat({ max_new_tokens: 4000, ignore_eos: true });
  let deltas = 0;
  try {
    for await (const { event } of call) if (event === "delta" && ++deltas === CANCEL_AFTER_DELTAS) call.cancel();
    throw new Error("the answer ended before it was cancelled");
  } catch (error) {
    if (error.code !== grpc.status.CANCELLED) throw error;
  }
  console.log(`cancelled after ${deltas} deltas`);
}

try {
  await printAnswer();
  await cancelInTheMiddle();
} catch (error) {
  console.error(`chat: ${error.details ?? error.message}`);
  process.exitCode = 1;
} finally {
  gateway.close();
}
