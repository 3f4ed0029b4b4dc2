// node chat.mjs URL MODEL [QUESTION]: the Vercel AI SDK. Stream an answer with its usage; one that a stop string ends;
// one with log-probabilities; then abort one in the middle.
import { createOpenAI } from "@ai-sdk/openai";
import { streamText } from "ai";

const ABORT_AFTER_TEXTS = 3;
const [url, name, prompt = "What is the capital of France?"] = process.argv.slice(2);
const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: "none" }).chat(name);
const ask = settings => streamText({ model, prompt, temperature: 0, maxRetries: 0, onError: ({ error }) => { throw error; }, ...settings });

const answer = ask({ maxOutputTokens: 24 });
for await (const text of answer.textStream) process.stdout.write(text);
console.log(`\nusage: ${(await answer.usage).outputTokens} tokens, ${await answer.finishReason}`);

const stopped = ask({ maxOutputTokens: 24, stopSequences: ["is"] });
console.log(`stopped: ${JSON.stringify(await stopped.text)}, ${await stopped.finishReason}`);

const weighed = ask({ maxOutputTokens: 4, providerOptions: { openai: { logprobs: 2 } } });
await weighed.consumeStream();
const { logprobs } = (await weighed.providerMetadata).openai;
console.log(`logprobs: ${logprobs.length}`);

const abort = new AbortController();
let texts = 0;
for await (const _ of ask({ maxOutputTokens: 4000, abortSignal: abort.signal }).textStream) {
  if (++texts === ABORT_AFTER_TEXTS) abort.abort();
}
console.log(`aborted after ${texts} texts`);
