import pytest

from proxy.config.loading import ConfigError, load_config
from proxy.config.schema import keys
from proxy.config.settings import Config, upstream_settings

HASH = "0123456789abcdef" * 4


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write_file(text, encoding="utf-8"):
        (tmp_path / "config.toml").write_text(text, encoding)
        return (tmp_path / "config.toml").relative_to(tmp_path)

    return write_file


def refusal(path, environ=None, flags=None):
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {}, flags or {})
    return str(caught.value)


def test_without_any_source_the_defaults_apply(write):
    write("[server]\nport = 1\n")
    assert load_config(None, {"PATH": "/bin"}, {}) == Config()


def test_flags_win_over_the_environment_and_it_over_the_file(write):
    path = write("[server]\nhost = 'a'\nport = 1\nmax_json_depth = 9\n")
    environ = {"BRANCHLINE_SERVER_HOST": "b", "BRANCHLINE_SERVER_PORT": "2"}
    server = load_config(path, environ, {"server.host": "c"}).server
    assert (server.host, server.port, server.max_json_depth) == ("c", 2, 9)
    assert server.max_body_bytes == Config().server.max_body_bytes


def test_a_file_reaches_every_depth(write):
    path = write(f'[auth]\nmode = "api_keys"\napi_keys = {{ alice = "{HASH}" }}\n[auth.jwt]\nleeway_seconds = 5\n')
    config = load_config(path, {}, {})
    assert config.auth.api_keys == {"alice": HASH}
    assert config.auth.jwt.leeway_seconds == 5.0


def test_the_environment_reaches_every_type():
    config = load_config(
        None,
        {
            "BRANCHLINE_AUTH_JWT_SECRET": "from a mounted file\n",
            "BRANCHLINE_AUTH_JWT_AUDIENCE": "one, two,",
            "BRANCHLINE_AUTH_API_KEYS": f"alice={HASH}, bob={HASH}",
            "BRANCHLINE_AUTH_ALLOW_PUBLIC_NONE": "true",
            "BRANCHLINE_TURNS_LOCK_WAIT_SECONDS": "1.5",
        },
        {},
    )
    assert config.auth.jwt.secret == "from a mounted file"
    assert config.auth.jwt.audience == ("one", "two")
    assert config.auth.api_keys == {"alice": HASH, "bob": HASH}
    assert config.auth.allow_public_none is True
    assert config.turns.lock_wait_seconds == 1.5


def test_windows_are_told_by_any_name_that_a_model_may_have(write):
    path = write('[models.windows]\n"gpt-4o" = 128_000\n"meta/llama-3:8b*" = 8192\n"*" = 4096\n')
    windows = {"gpt-4o": 128_000, "meta/llama-3:8b*": 8192, "*": 4096}
    assert load_config(path, {}, {}).models.windows == windows
    environ = {"BRANCHLINE_MODELS_WINDOWS": "gpt-4o=128000, meta/llama-3:8b*=8192,*=4096"}
    assert load_config(None, environ, {}).models.windows == windows


@pytest.mark.parametrize("line", ['"gpt-*-mini" = 5', '"" = 5', '"x" = 0', '"x" = "many"', '"a b" = 5'])
def test_a_window_that_can_not_be_meant_is_refused(write, line):
    with pytest.raises(ConfigError, match=r"models\.windows"):
        load_config(write(f"[models.windows]\n{line}\n"), {}, {})


def test_every_key_has_a_variable_of_its_own():
    variables = [key.variable for key in keys().values()]
    assert len(set(variables)) == len(variables)
    assert keys()["auth.jwt.secret"].variable == "BRANCHLINE_AUTH_JWT_SECRET"


def test_an_empty_variable_means_unset():
    assert load_config(None, {"BRANCHLINE_SERVER_PORT": "", "BRANCHLINE_NO_SUCH": " "}, {}) == Config()


def test_what_kubernetes_adds_for_a_service_is_passed_over():
    links = {
        "BRANCHLINE_SERVICE_HOST": "10.0.0.1",
        "BRANCHLINE_SERVICE_PORT": "8080",
        "BRANCHLINE_SERVICE_PORT_HTTP": "8080",
        "BRANCHLINE_PORT": "tcp://10.0.0.1:8080",
        "BRANCHLINE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "BRANCHLINE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "BRANCHLINE_SERVER_PORT": "tcp://10.0.0.1:8080",
    }
    assert load_config(None, links, {}) == Config()
    assert refusal(None, {"BRANCHLINE_PORT": "8080"}).startswith("BRANCHLINE_PORT: no such setting")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '[server]\nport = "x"',
            'server.port in config.toml: expected an integer between 0 and 65535, got "x"',
        ),
        ("[server]\nport = 70000", "…: expected an integer between 0 and 65535, got 70000"),
        ("[server]\nworkers = 0", '…: expected an integer between 1 and 256 or "auto", got 0'),
        ("[server]\nworkers = 'all'", '…: expected an integer between 1 and 256 or "auto", got "all"'),
        ("[server]\nport = true", "…: expected an integer between 0 and 65535, got true"),
        ("[server]\nhost = ''", 'server.host in config.toml: expected text, not empty, got ""'),
        (
            "[turns]\nlock_wait_seconds = inf",
            "turns.lock_wait_seconds in config.toml: expected a number of at least 0, got inf",
        ),
        ("[redis]\ntimeout_seconds = 0", "…: expected a number above 0, got 0"),
        ("[log]\nlevel = 'loud'", '…: expected one of "debug", "info", "warning", "error", got "loud"'),
        ("[auth.jwt]\naudience = 'one'", '…: expected a list of text, got "one"'),
        ("[auth.jwt]\naudience = [1]", "…: expected a list of text"),
        ("[server]\nprot = 1", "server.prot in config.toml: no such key; did you mean server.port?"),
        ("port = 1", "port in config.toml: no such key; did you mean server.port?"),
        ("[sever]\nport = 1", "sever in config.toml: no such key; did you mean server?"),
        ("[zzz]", "zzz in config.toml: no such key"),
        ("server = 1", "server in config.toml: expected a section, written [server]"),
        ("[server", "config.toml: is not valid TOML: …"),
    ],
)
def test_a_wrong_file_is_told_by_key_and_source(write, text, message):
    told = refusal(write(text))
    beginning, rest, end = message.partition("…")
    assert told == message if not rest else told.startswith(beginning) and told.endswith(end)
    assert "\n" not in told


def test_a_file_that_can_not_be_read_is_named(write, tmp_path):
    assert refusal(tmp_path / "none.toml") == f"{tmp_path}/none.toml: can't be read: No such file or directory"
    assert refusal(write("a = 'ä'", "latin-1")) == "config.toml: is not UTF-8 text"


def test_a_byte_order_mark_is_no_error(write):
    assert load_config(write("[server]\nport = 1", "utf-8-sig"), {}, {}).server.port == 1


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        (
            "BRANCHLINE_SERVER_PORT",
            "x",
            "server.port from BRANCHLINE_SERVER_PORT: expected an integer between 0 and 65535, got …",
        ),
        (
            "BRANCHLINE_AUTH_ALLOW_PUBLIC_NONE",
            "perhaps",
            'auth.allow_public_none from …: expected true or false, got "perhaps"',
        ),
        (
            "BRANCHLINE_SERVER_PROT",
            "1",
            "BRANCHLINE_SERVER_PROT: no such setting; did you mean BRANCHLINE_SERVER_PORT?",
        ),
    ],
)
def test_a_wrong_variable_is_named(variable, text, message):
    beginning, _, end = message.partition("…")
    told = refusal(None, {variable: text})
    assert told.startswith(beginning)
    assert told.endswith(end)


def test_a_wrong_flag_is_named():
    assert refusal(None, flags={"server.port": "x"}).startswith("server.port from --port: expected")


def test_a_long_value_is_quoted_in_part():
    assert len(refusal(None, {"BRANCHLINE_SERVER_PORT": "9" * 10_000})) < 200


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"BRANCHLINE_REDIS_URL": "http://user:hunter2@host"}, ""),
        ({"BRANCHLINE_REDIS_URL": "redis://:hunter2/x@host:1"}, ""),
        ({"BRANCHLINE_REDIS_URL": "redis://host:hunter2"}, ""),
        ({"BRANCHLINE_REDIS_URL": "hunter2"}, ""),
        ({"BRANCHLINE_UPSTREAM_URL": "https://user:hunter2@host/v1"}, ""),
        ({"BRANCHLINE_AUTH_API_KEYS": "alice=hunter2"}, ""),
        ({"BRANCHLINE_AUTH_API_KEYS": "hunter2"}, ""),
        ({}, "[auth.api_keys]\nalice = 'hunter2'"),
        ({}, "[auth.jwt]\nsecret = ['hunter2']"),
        ({}, "[upstream]\napi_key = { value = 'hunter2' }"),
    ],
)
def test_no_message_holds_a_secret(write, environ, text):
    with pytest.raises(ConfigError) as caught:
        load_config(write(text), environ, {})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_broken_rule_is_told_with_the_source_of_its_key(write):
    environ = {"BRANCHLINE_AUTH_MODE": "none"}
    told = refusal(write("[server]\nhost = '0.0.0.0'"), environ)
    assert told.startswith('auth.mode from BRANCHLINE_AUTH_MODE: "none" makes everybody who reaches 0.0.0.0')
    assert refusal(write("[auth]\nmode = 'api_keys'")).startswith("auth.api_keys (not set): is empty")


NAMED = """
[upstream]
read_timeout_seconds = 300
[upstreams.qwen]
url = "http://127.0.0.1:8001/v1"
models = ["qwen3-32b"]
[upstreams.qwen-2]
url = "http://127.0.0.1:8002/v1"
models = ["qwen3-32b"]
read_timeout_seconds = 5
[upstreams.azure]
url = "https://RESOURCE.openai.azure.com/openai/v1"
models = ["gpt-5-eu"]
rename = { "gpt-5-eu" = "my-deployment" }
"""


def test_upstreams_come_in_the_order_of_the_file_with_what_they_have_in_common(write):
    environ = {
        "BRANCHLINE_UPSTREAMS_QWEN_2_API_KEY": "sk-2",
        "BRANCHLINE_UPSTREAMS_EXTRA_1_URL": "http://extra/v1",
        "BRANCHLINE_UPSTREAMS_EXTRA_1_MODELS": "a, b*",
        "BRANCHLINE_UPSTREAMS_EXTRA_1_MAX_CONNECTIONS": "7",
    }
    config = load_config(write(NAMED), environ, {})
    assert list(config.upstreams) == ["qwen", "qwen-2", "azure", "extra_1"]
    assert config.upstreams["azure"].rename == {"gpt-5-eu": "my-deployment"}
    assert config.upstreams["extra_1"].models == ("a", "b*")
    settings = upstream_settings(config)
    assert [one.read_timeout_seconds for one in settings.values()] == [300.0, 5.0, 300.0, 300.0]
    assert [one.max_connections for one in settings.values()] == [0, 0, 0, 7]
    assert settings["qwen-2"].api_key == "sk-2"
    assert list(upstream_settings(Config())) == [""]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[upstreams]\nurl = 'http://x'", "upstreams.url in config.toml: expected a section"),
        ("upstreams = 1", "upstreams in config.toml: expected sections, each written [upstreams.NAME]"),
        ("[upstreams.'a.b']\nurl = 'http://x'", "upstreams.a.b in config.toml: a name must be 1 to 32 letters"),
        (
            "[upstreams.a]\nurl = 'http://x'\nmodels = ['m']\nmodel = 'x'",
            "upstreams.a.model in config.toml: no such key",
        ),
        (
            "[upstreams.a-1]\nurl = 'http://x'\n[upstreams.A_1]\nurl = 'http://y'",
            "upstreams.A_1 in config.toml: its variables would be those of upstreams.a-1; choose another name",
        ),
        ("[upstreams.a]\nurl = 'x'\nmodels = ['m']", "upstreams.a.url in config.toml: must be an http"),
        ("[upstreams.a]\nmodels = ['m']", "upstreams.a.url (not set): must be an http"),
        ("[upstreams.a]\nurl = 'http://x'", "upstreams.a.models (not set): is empty"),
        ("[upstreams.a]\nurl = 'http://x'\nmodels = ['a*b']", "upstreams.a.models in config.toml: expected a list"),
        (
            "[upstreams.a]\nurl = 'http://k@x'\nmodels = ['m']",
            "upstreams.a.url in config.toml: must not hold credentials; put the key into upstreams.a.api_key",
        ),
        (
            "[upstreams.a]\nurl = 'http://x'\nmodels = ['m']\nrename = { n = 'o' }",
            'upstreams.a.rename in config.toml: has "n", which none of upstreams.a.models is',
        ),
        (
            "[upstreams.a]\nurl = 'http://x'\nmodels = ['m']\napi_key = 'k'\ncaller_key = true",
            "upstreams.a.caller_key in config.toml: must be false where there is upstreams.a.api_key",
        ),
        (
            "auth.mode = 'none'\n[upstreams.a]\nurl = 'http://x'\nmodels = ['m']\ncaller_key = true",
            'upstreams.a.caller_key in config.toml: must be false under auth.mode "none"',
        ),
        (
            "upstream.url = 'http://y'\n[upstreams.a]\nurl = 'http://x'\nmodels = ['m']",
            "upstream.url in config.toml: is not used beside upstreams.a: set upstreams.NAME.url, or remove those",
        ),
        (
            "upstream.api_key = 'k'\n[upstreams.a]\nurl = 'http://x'\nmodels = ['m']",
            "upstream.api_key in config.toml: is not used beside upstreams.a",
        ),
        (
            "[upstreams.a]\nurl = 'http://x'\nmodels = ['m']\nread_timeout_seconds = 0",
            "upstreams.a.read_timeout_seconds in config.toml: expected a number above 0, got 0",
        ),
    ],
)
def test_an_upstream_that_can_not_be_meant_is_refused(write, more, message):
    assert refusal(write(more)).startswith(message)


def test_a_variable_of_an_upstream_that_nobody_knows_is_refused(write):
    told = refusal(write(NAMED), {"BRANCHLINE_UPSTREAMS_QEN_API_KEY": "sk-secret"})
    assert told == "BRANCHLINE_UPSTREAMS_QEN_API_KEY: no such setting; did you mean BRANCHLINE_UPSTREAMS_QWEN_API_KEY?"
