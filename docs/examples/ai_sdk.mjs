// Vercel's AI SDK: text that is streamed, in turns that continue each other. npm install ai @ai-sdk/openai
import { createOpenAI } from "@ai-sdk/openai";
import { streamText } from "ai";

const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: process.env.OPENAI_API_KEY });

let previousResponseId;
for (const prompt of ["hello", "and again"]) {
  const result = streamText({
    model: openai.responses("echo"),
    prompt,
    providerOptions: { openai: { previousResponseId } },
  });
  console.log(await result.text);
  previousResponseId = (await result.providerMetadata).openai.responseId;
}
// > You said: "hello" (I saw 0 earlier items.)
// > You said: "and again" (I saw 2 earlier items.)
