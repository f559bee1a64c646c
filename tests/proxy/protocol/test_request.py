from __future__ import annotations

from proxy.protocol.request import read_request


def test_the_answered_calls_are_those_that_must_be_known():
    kinds = [
        "function_call",
        "function_call_output",
        "computer_call_output",
        "strange_output",
        "custom_tool_call_output",
    ]
    items = [{"type": kind, "call_id": f"call_{place}"} for place, kind in enumerate(kinds)]
    request = read_request({"input": [{"role": "user", "content": "hi"}, *items, {"type": "function_call_output"}]})
    assert request.answered_calls == ["call_1", "call_4"]
