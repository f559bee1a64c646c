"""What a path that leads nowhere was probably meant to be."""

from __future__ import annotations

import pytest

from proxy.http.urls import hint_for


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/v1/responses", "/v1/responses"),
        ("/v1/v1/v1/models", "/v1/models"),
        ("/v1//v1/responses/resp_1", "/v1/responses/resp_1"),
        ("/%761/v1/responses", "/v1/responses"),
        ("/responses", "/v1/responses"),
        ("/responses/resp_1/input_items", "/v1/responses/resp_1/input_items"),
        ("/conversations/conv_1/items", "/v1/conversations/conv_1/items"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("//responses/", "/v1/responses"),
        ("/openai/responses", "/v1/responses"),
        ("/openai/v1/responses", "/v1/responses"),
        ("/openai/deployments/gpt/chat/completions", "/v1/chat/completions"),
        ("/api/v1/models/x", "/v1/models/x"),
    ],
)
def test_a_wrong_base_url_is_recognised(path: str, meant: str):
    assert f"Did you mean '{meant}'?" in hint_for(path)


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/nowhere", "/v2/models", "/v1beta/models", "/favicon.ico", "/v1/responses/a", "/v1/x"],
)
def test_elsewhere_there_is_no_hint(path: str):
    assert hint_for(path) == ""
