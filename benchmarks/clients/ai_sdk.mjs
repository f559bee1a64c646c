// AI SDK with either API: messages of its own, made anew for each request.
// node ai_sdk.mjs responses|chat plain|streamed URL; the talk is that of talk.py.
import { generateText, stepCountIs, streamText, tool } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { z } from "zod";

const [api, way, url] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: url, apiKey: "sk-alice" });
const model = api === "chat" ? openai.chat("echo") : openai.responses("echo");
const look_up = tool({
  description: "Tell the weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `It rains in ${city}.`,
});

async function answered(messages) {
  const asked = { model, messages, tools: { look_up }, stopWhen: stepCountIs(4), maxRetries: 0 };
  const result = way === "plain" ? await generateText(asked) : streamText(asked);
  if (way === "streamed") await result.consumeStream();
  return [...messages, ...(await result.response).messages];
}

const ask = (history, text) => answered([...history, { role: "user", content: text }]);

const one = await ask([], "call look_up Paris");
await ask(one, "and two");
const edited = await ask(one, "and two, edited");
const three = await ask(edited, "and three");
await answered(three.slice(0, -1));
