"""LiteLLM's own proxy behind Branchline, beside another server: run where it is installed, with its mocked models.

python -m venv elsewhere && elsewhere/bin/pip install 'litellm[proxy]'
LITELLM=elsewhere/bin/litellm pytest tests/flows/upstreams/test_litellm.py
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from benchmarks.processes import free_port
from proxy.config.settings import Secret
from tests.flows.streams import read_stream
from tests.flows.talk import items_of, new_conversation, post, respond
from tests.flows.upstreams.conftest import WAYS, Several, StartSeveral, take, text_of, told_in
from tests.upstream import ScriptedUpstream

LITELLM = os.environ.get("LITELLM") or shutil.which("litellm")
KEY = "sk-litellm"
CONFIG = """
model_list:
  - model_name: mock-gpt
    litellm_params: {{model: openai/gpt-4o-mini, api_key: none, mock_response: "Hello from LiteLLM."}}
  - model_name: mock-claude
    litellm_params: {{model: anthropic/claude-sonnet-4, api_key: none, mock_response: "Hello from another model."}}
  - model_name: through
    litellm_params: {{model: openai/echo, api_key: none, api_base: "{echo}"}}
general_settings: {{master_key: {key}}}
"""

pytestmark = [
    pytest.mark.skipif(
        LITELLM is None, reason="LiteLLM is not installed: LITELLM=… names its command, see the module's text"
    ),
    pytest.mark.timeout(180),
]


@pytest.fixture
async def litellm_url(tmp_path: Path) -> AsyncIterator[str]:
    """The base URL of a running LiteLLM proxy."""
    async with ScriptedUpstream() as echo:
        (tmp_path / "config.yaml").write_text(CONFIG.format(key=KEY, echo=echo.url))
        port = free_port()
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        command = [str(LITELLM), "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        silent = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, env=environ, stdout=silent, stderr=silent
        )
        try:
            await _until_it_answers(f"http://127.0.0.1:{port}/health/liveliness")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            await process.wait()


async def _until_it_answers(url: str) -> None:
    async with asyncio.timeout(150), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(url) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)


@pytest.fixture
async def several(start_several: StartSeveral, litellm_url: str) -> Several:
    """LiteLLM first, another server of the same models second."""
    models = ["claude", "mock-gpt", "through"]
    return await start_several(
        litellm={"models": models, "url": litellm_url, "api_key": Secret(KEY), "rename": {"claude": "mock-claude"}},
        other={"models": [*models, "*"]},
    )


async def test_litellm_behind_branchline(several: Several):
    """One test of all of it: LiteLLM takes longer to start than all the rest."""
    for way in WAYS:
        await _a_conversation_with_a_model_behind_it(several, way)
    await _its_mocked_models(several)
    await _where_it_fails_under_a_200_another_server_answers(several)
    await _its_list_of_models_and_its_refusals(several)


async def _a_conversation_with_a_model_behind_it(several: Several, way: str):
    conversation = await new_conversation(several.proxy)
    for earlier in (0, 2):
        response = await take(several, way, model="through", conversation=conversation, input="hello")
        assert text_of(response) == f'You said: "hello" (I saw {earlier} earlier items.)'
        assert response["status"] == "completed"
    assert len(await items_of(several.proxy, conversation)) == 4
    assert several.asked() == []


async def _its_mocked_models(several: Several):
    first = await respond(several.proxy, model="mock-gpt")
    assert text_of(first) == "Hello from LiteLLM."
    second = await respond(several.proxy, model="claude", previous_response_id=first["id"])
    assert (text_of(second), second["model"]) == ("Hello from another model.", "claude")
    assert several.asked() == []


async def _where_it_fails_under_a_200_another_server_answers(several: Several):
    """Its mocked models can't be streamed by `/v1/responses`: an `error` comes in the place of the first event."""
    told = told_in(await read_stream(several.proxy, {"model": "mock-gpt", "input": "hello"}))
    assert text_of(told[-1]["response"]) == 'You said: "hello" (I saw 0 earlier items.)'
    assert several.asked() == ["other"]


async def _its_list_of_models_and_its_refusals(several: Several):
    page = await several.proxy.client().models.list()
    assert {"claude", "mock-gpt", "through"} <= {model.id for model in page.data}
    assert "mock-claude" not in {model.id for model in page.data if model.owned_by != "branchline"}
    chat = {"model": "claude", "messages": [{"role": "user", "content": "hi"}]}
    answer = await post(several.proxy, "/v1/chat/completions", chat, None)
    assert (answer.json["model"], answer.json["choices"][0]["message"]["content"]) == (
        "claude",
        "Hello from another model.",
    )
    streamed = await post(several.proxy, "/v1/chat/completions", {**chat, "stream": True}, None)
    assert b'"model":"claude"' in streamed.body
    assert b"mock-claude" not in streamed.body
