// OpenAI's client for Node: a conversation, and a streamed turn in it. npm install openai
import OpenAI from "openai";

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const conversation = await client.conversations.create();
await client.responses.create({ model: "echo", input: "hello", conversation: conversation.id });

const stream = await client.responses.create({
  model: "echo",
  input: "and again",
  conversation: conversation.id,
  stream: true,
});
let text = "";
for await (const event of stream) {
  if (event.type === "response.output_text.delta") text += event.delta;
}
console.log(text);
// > You said: "and again" (I saw 2 earlier items.)
