"""OpenAI's client for Azure against the proxy: its key comes in `api-key`, and `api-version` with every request."""

from __future__ import annotations

import openai
import pytest
from openai import AsyncAzureOpenAI, DefaultAsyncHttpxClient

from tests.flows.conftest import Proxy

VERSION = "2025-04-01-preview"


def azure_client(proxy: Proxy, key: str) -> AsyncAzureOpenAI:
    """Return the client as an app makes it that has another address than Azure's; it is closed with the proxy."""
    http = DefaultAsyncHttpxClient(verify=False)
    client = AsyncAzureOpenAI(
        base_url=f"{proxy.url}/v1", api_key=key, api_version=VERSION, max_retries=0, http_client=http
    )
    proxy.stack.push_async_callback(client.close)
    return client


async def test_azure_s_client_holds_a_conversation_and_its_key_goes_upstream_as_it_came(proxy: Proxy):
    client = azure_client(proxy, "azure-alice")
    conversation = await client.conversations.create(metadata={"topic": "x"})
    plain = await client.responses.create(model="echo", input="one", conversation=conversation.id)
    async with client.responses.stream(model="echo", input="two", conversation=conversation.id) as stream:
        assert "I saw 2 earlier items" in (await stream.get_final_response()).output_text
    chained = await client.responses.create(model="echo", input="x", previous_response_id=plain.id)
    assert "I saw 2 earlier items" in chained.output_text
    assert len((await client.conversations.items.list(conversation.id)).data) == 4
    await client.models.list()
    for request in proxy.upstream.requests:
        assert request.headers["api-key"] == "azure-alice"
        assert "Authorization" not in request.headers
        assert request.path_qs.endswith(f"?api-version={VERSION}")


async def test_two_keys_of_azure_s_client_are_two_owners(proxy: Proxy):
    alice, bob = azure_client(proxy, "azure-alice"), azure_client(proxy, "azure-bob")
    conversation = await alice.conversations.create()
    response = await alice.responses.create(model="echo", input="secret", conversation=conversation.id)
    with pytest.raises(openai.NotFoundError):
        await bob.conversations.retrieve(conversation.id)
    with pytest.raises(openai.NotFoundError):
        await bob.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        await bob.responses.create(model="echo", input="x", previous_response_id=response.id)
    assert (await alice.responses.retrieve(response.id)).output_text == response.output_text
