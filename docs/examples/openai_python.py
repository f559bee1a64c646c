"""OpenAI's Python client: a conversation, streamed, an edit, and a branch. pip install openai"""

from openai import BaseModel, OpenAI
from openai.types.responses import Response


class Edited(BaseModel):
    """What an edit answers."""

    response: Response
    old_main_backup: str


client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
conversation = client.conversations.create()
client.responses.create(model="echo", input="hello", conversation=conversation.id)

with client.responses.stream(model="echo", input="and again", conversation=conversation.id) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="")
print()
# > You said: "and again" (I saw 2 earlier items.)

items = client.conversations.items.list(conversation.id, order="asc").data
edited = client.post(
    f"/conversations/{conversation.id}/items/{items[2].id}/edit",
    body={"content": "once more", "regenerate": True},
    cast_to=Edited,
)
print(edited.response.output_text)
# > You said: "once more" (I saw 2 earlier items.)

fork = {"id": conversation.id, "fork_from": items[1].id, "branch": "draft"}
response = client.responses.create(model="echo", input="another way", extra_body={"conversation": fork})
print(response.output_text)
# > You said: "another way" (I saw 2 earlier items.)
