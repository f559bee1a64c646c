import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from jsonschema import Draft202012Validator
from openai import AsyncOpenAI

from proxy.echo import create_echo_app
from proxy.echo.schema_sample import specimen
from proxy.protocol.sse import SseDecoder

# What Open Responses' ResponseResource requires to be present.
REQUIRED = """id object created_at completed_at status incomplete_details model previous_response_id instructions
output error tools tool_choice truncation parallel_tool_calls text top_p presence_penalty frequency_penalty
top_logprobs temperature reasoning usage max_output_tokens max_tool_calls store background service_tier metadata
safety_identifier prompt_cache_key"""

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city", "days"],
    },
}
CLOCK = {"type": "function", "name": "get_time", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture
async def http():
    async with TestClient(TestServer(create_echo_app())) as client:
        yield client


@pytest.fixture
async def openai(http):
    async with AsyncOpenAI(base_url=str(http.make_url("/v1")), api_key="none", max_retries=0) as client:
        yield client


async def post(http, path="/v1/responses", status=200, **body):
    async with http.post(path, json={"model": "echo", **body}) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def text_of(http, input_, **body):
    response = await post(http, input=input_, **body)
    return response["output"][-1]["content"][0]["text"]


def user(content):
    return {"role": "user", "content": content}


def assistant(text):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


async def test_it_repeats_the_input_and_counts_no_history(http):
    assert await text_of(http, "hello") == 'You said: "hello" (I saw 0 earlier items.)'


async def test_it_counts_the_items_before_the_last_user_message(http):
    history = [user("a"), assistant("b"), {"type": "reasoning", "summary": []}, {"type": "new_kind", "x": []}]
    assert await text_of(http, [*history, user("now")]) == 'You said: "now" (I saw 4 earlier items.)'
    assert await text_of(http, [user("a"), user("now")]) == 'You said: "now" (I saw 1 earlier item.)'


async def test_it_reads_text_parts_and_counts_images(http):
    image = {"type": "input_image", "image_url": "data:,"}
    parts = [{"type": "input_text", "text": "look"}, image]
    assert await text_of(http, [user(parts)]) == 'You said: "look" and 1 image (I saw 0 earlier items.)'
    assert "and 2 images" in await text_of(http, [user([*parts, image])])


async def test_a_response_has_every_field_and_repeats_the_request(http):
    given = {"metadata": {"a": "b"}, "temperature": 0.5, "store": False, "reasoning": {"effort": "low"}}
    response = await post(http, input="hello", instructions="Be brief.", tools=[CLOCK], **given)
    assert [name for name in REQUIRED.split() if name not in response] == []
    assert response | {**given, "reasoning": {"effort": "low", "summary": None}} == response
    assert response["instructions"] == "Be brief."
    assert response["tools"] == [{**CLOCK, "description": None, "strict": True}]


async def test_usage_counts_words_of_instructions_history_and_answer(http):
    body = {"instructions": "Be brief.", "input": [user("one two"), assistant("three"), user("four")]}
    usage = (await post(http, **body))["usage"]
    assert usage == {
        "input_tokens": 6,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 14,
    }


async def test_reasoning_comes_first_and_sealed_only_on_request(http):
    asked = {"input": "hello", "reasoning": {"effort": "low"}}
    plain = (await post(http, **asked))["output"][0]
    assert plain["type"] == "reasoning"
    assert plain["summary"][0]["type"] == "summary_text"
    assert "encrypted_content" not in plain
    response = await post(http, **asked, include=["reasoning.encrypted_content"])
    assert response["output"][0]["encrypted_content"]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == 6


async def test_sealed_reasoning_is_accepted_under_its_own_id_or_none_only(http):
    include = ["reasoning.encrypted_content"]
    item = (await post(http, input="a", reasoning={"effort": "low"}, include=include))["output"][0]
    without_id = {name: value for name, value in item.items() if name != "id"}
    await post(http, input=[item, user("b")])
    await post(http, input=[without_id, user("b")])
    refusal = await post(http, status=400, input=[{**item, "id": "rs_other"}, user("b")])
    assert refusal["error"]["code"] == "invalid_encrypted_content"


async def test_a_tool_is_called_with_the_word_after_its_name(http):
    response = await post(http, input='Please call get_weather "Paris"!', tools=[CLOCK, WEATHER])
    (call,) = response["output"]
    assert (call["type"], call["name"], call["status"]) == ("function_call", "get_weather", "completed")
    assert call["arguments"] == '{"city":"Paris","days":1}'
    assert call["call_id"].startswith("call_")


async def test_several_tools_are_called_unless_parallel_calls_are_off(http):
    asked = {"input": "call get_weather Rome and call get_time", "tools": [WEATHER, CLOCK]}
    assert [call["name"] for call in (await post(http, **asked))["output"]] == ["get_weather", "get_time"]
    assert len((await post(http, **asked, parallel_tool_calls=False))["output"]) == 1


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", [None]),
        ("required", ["get_weather"]),
        ({"type": "function", "name": "get_time"}, ["get_time"]),
        ("none", [None]),
    ],
)
async def test_tool_choice_forces_or_forbids_a_call(http, choice, names):
    response = await post(http, input="hello", tools=[WEATHER, CLOCK], tool_choice=choice)
    assert [item.get("name") for item in response["output"]] == names


async def test_a_forbidden_tool_is_not_called_even_when_asked_for(http):
    asked = {"input": "call get_time", "tools": [CLOCK]}
    assert (await post(http, **asked, tool_choice="none"))["output"][0]["type"] == "message"
    assert (await post(http, **asked))["output"][0]["type"] == "function_call"


async def test_a_tool_output_is_quoted_and_ends_the_calls(http):
    call = {"type": "function_call", "call_id": "c1", "name": "get_time", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    text = await text_of(http, [user("call get_time"), call, output], tools=[CLOCK], tool_choice="required")
    assert text == 'The tool said: "noon" (I saw 2 earlier items.)'
    parts = {**output, "output": [{"type": "input_text", "text": "one"}]}
    text = await text_of(http, [user("x"), call, parts, output])
    assert text == 'The tool said: "one" and "noon" (I saw 2 earlier items.)'


async def test_a_tool_output_without_its_call_is_refused_as_openai_does(http):
    output = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
    refusal = await post(http, status=400, input=[user("x"), output])
    assert refusal["error"] == {
        "message": "No tool call found for function call output with call_id c1.",
        "type": "invalid_request_error",
        "param": "input",
        "code": None,
    }


async def test_a_limit_cuts_the_text_and_leaves_the_response_incomplete(http):
    response = await post(http, input="hello", max_output_tokens=3)
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["content"][0]["text"] == 'You said: "hello"'
    assert response["usage"]["output_tokens"] == 3
    assert (await post(http, input="hello", max_output_tokens=8))["status"] == "completed"


@pytest.mark.parametrize(
    "state",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"background": True},
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        {"input": [{"id": "msg_1"}]},
    ],
)
async def test_state_is_refused(http, state):
    refusal = await post(http, status=400, **{"input": "hello", **state})
    assert refusal["error"]["type"] == "invalid_request_error"


async def test_state_fields_that_are_null_are_accepted(http):
    await post(http, input="hello", previous_response_id=None, conversation=None, background=False)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b'"x"',
        b"\xff",
        b'{"input":"\\ud800"}',
        b'{"model":"echo"}',
        b'{"input":"x"}',
        b'{"model":"e","input":[1]}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_a_bad_body_is_refused_in_the_error_envelope(http, path, body):
    async with http.post(path, data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["type"] == "invalid_request_error"


async def events_of(http, **body):
    async with http.post("/v1/responses", json={"model": "echo", "stream": True, **body}) as answer:
        assert answer.content_type == "text/event-stream"
        return SseDecoder(1_000_000).feed(await answer.read())


async def test_a_stream_names_its_events_and_numbers_them_without_gaps(http):
    events = [(event.name, orjson.loads(event.data)) for event in await events_of(http, input="hello")]
    assert [name for name, _ in events] == [event["type"] for _, event in events]
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
    assert [name for name, _ in events if not name.endswith("delta")] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


async def test_a_stream_starts_with_an_empty_response_in_progress(http):
    created = orjson.loads((await events_of(http, input="hello"))[0].data)["response"]
    unfinished: dict[str, object] = {"status": "in_progress", "output": [], "usage": None, "completed_at": None}
    assert created | unfinished | {"service_tier": "auto"} == created


async def test_the_deltas_are_words_that_add_up_to_the_text(http):
    events = [orjson.loads(event.data) for event in await events_of(http, input="a  b\nc ")]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) > 5
    assert "".join(deltas) == events[-1]["response"]["output"][0]["content"][0]["text"]


async def test_a_cut_stream_ends_as_incomplete(http):
    last = (await events_of(http, input="hello", max_output_tokens=1))[-1]
    assert last.name == "response.incomplete"
    assert orjson.loads(last.data)["response"]["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]},
        {"input": "call get_weather Rome and call get_time", "tools": [WEATHER, CLOCK]},
    ],
)
async def test_the_sdk_puts_the_stream_together_to_the_final_response(openai, extra):
    async with openai.responses.stream(**{"model": "echo", "input": "hello", **extra}) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert types[-1] == "response.completed"
    assert final.output
    assert all(item.status != "in_progress" for item in final.output)


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "string"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"]},
    {"type": "array", "items": {"type": "number"}, "minItems": 3},
    {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "null"}]},
    {"type": ["boolean", "null"]},
    {"const": {"a": [None]}},
    {"type": "integer", "exclusiveMaximum": 0},
    {"type": "number", "exclusiveMinimum": 2, "maximum": 10},
    {"type": "string", "minLength": 9},
    {"type": "string", "maxLength": 2},
    {"properties": {"n": {"allOf": [{"$ref": "#/$defs/N~1a"}]}}, "$defs": {"N/a": {"type": "integer"}}},
    {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "boolean"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}},
                },
                "required": ["next", "children"],
            }
        },
    },
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_specimen_fits_its_schema(schema):
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(specimen(schema))


async def test_a_structured_answer_fits_the_schema_that_was_asked_for(http):
    wanted = {"type": "json_schema", "name": "weather", "schema": WEATHER["parameters"]}
    text = await text_of(http, "hello", text={"format": wanted})
    assert orjson.loads(text) == {"city": "echo", "days": 1}
    assert orjson.loads(await text_of(http, "hello", text={"format": {"type": "json_object"}})) == {"said": "hello"}


async def test_chat_completions_answer_with_the_same_model(openai):
    messages = [user("a"), {"role": "assistant", "content": "b"}, user([{"type": "text", "text": "now"}])]
    completion = await openai.chat.completions.create(model="echo", messages=messages)
    assert completion.choices[0].message.content == 'You said: "now" (I saw 2 earlier items.)'
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (3, 8)


async def test_chat_completions_call_tools_and_read_their_outputs(openai):
    function = {name: WEATHER[name] for name in ("name", "parameters")}
    asked = {"model": "echo", "tools": [{"type": "function", "function": function}]}
    first = await openai.chat.completions.create(messages=[user("call get_weather Oslo")], **asked)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert message.tool_calls[0].function.arguments == '{"city":"Oslo","days":1}'
    output = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "snow"}
    history = [user("x"), message.model_dump(exclude_none=True), output]
    second = await openai.chat.completions.create(messages=history, **asked)
    assert second.choices[0].message.content == 'The tool said: "snow" (I saw 2 earlier items.)'


@pytest.mark.parametrize("text", ["hello", "call get_time"])
async def test_the_sdk_puts_chat_chunks_together_to_the_same_answer(openai, text):
    tools = [{"type": "function", "function": {"name": "get_time", "parameters": CLOCK["parameters"], "strict": True}}]
    asked = {"model": "echo", "messages": [user(text)], "tools": tools}
    plain = await openai.chat.completions.create(**asked)
    async with openai.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        streamed = await stream.get_final_completion()
    assert streamed.choices[0].message.content == plain.choices[0].message.content
    assert streamed.choices[0].finish_reason == plain.choices[0].finish_reason
    assert streamed.usage == plain.usage


async def test_chat_completions_are_cut_and_structured_as_asked(openai):
    asked = {"model": "echo", "messages": [user("hello")]}
    for limit in ({"max_completion_tokens": 2}, {"max_tokens": 2}):
        cut = await openai.chat.completions.create(**asked, **limit)
        assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("You said:", "length")
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": WEATHER["parameters"]}}
    structured = await openai.chat.completions.create(**asked, response_format=wanted)
    assert orjson.loads(structured.choices[0].message.content) == {"city": "echo", "days": 1}


async def test_models_are_listed_and_found(openai):
    assert [model.id async for model in await openai.models.list()] == ["echo", "gpt-echo"]
    assert (await openai.models.retrieve("gpt-echo")).object == "model"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("POST", "/v1/embeddings", 404, None),
        ("GET", "/v1/conversations/conv_1", 404, None),
        ("DELETE", "/v1/responses", 405, "method_not_allowed"),
    ],
)
async def test_other_paths_are_refused_in_the_error_envelope(http, method, path, status, code):
    async with http.request(method, path) as answer:
        assert answer.status == status
        error = (await answer.json())["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code


async def test_every_answer_has_a_request_id(http):
    for path, body in [("/v1/responses", {"model": "echo", "input": "x", "stream": True}), ("/v1/nothing", {})]:
        async with http.post(path, json=body) as answer:
            assert answer.headers["x-request-id"].startswith("req_")


async def test_text_that_is_no_text_is_passed_over(http):
    parts = [{"type": "input_text", "text": {"a": 1}}, {"type": "input_text", "text": "hello"}]
    assert await text_of(http, [user(parts)]) == 'You said: "hello" (I saw 0 earlier items.)'
