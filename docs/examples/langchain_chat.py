"""LangChain: a chat model that sends only what is new. pip install langchain-openai"""

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

# with use_previous_response_id the model is sent what came after the last answer; Branchline has the rest
model = ChatOpenAI(model="echo", use_responses_api=True, use_previous_response_id=True)

messages: list[BaseMessage] = []
for question in ("hello", "and again"):
    messages.append(HumanMessage(question))
    answer = model.invoke(messages)
    messages.append(answer)
    print(answer.text)
# > You said: "hello" (I saw 0 earlier items.)
# > You said: "and again" (I saw 2 earlier items.)
