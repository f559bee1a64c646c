import tomllib
from pathlib import Path

from proxy.config.loading import load_config
from proxy.config.reference import comments, example, markdown
from proxy.config.schema import keys, named_sections, sections
from proxy.config.settings import Config

ROOT = Path(__file__).parents[3]


def test_the_written_files_are_up_to_date():
    advice = "run `python -m proxy.config.reference`"
    assert (ROOT / "config.example.toml").read_text("utf-8") == example(), advice
    assert (ROOT / "docs" / "configuration.md").read_text("utf-8") == markdown(), advice


def test_the_example_is_what_runs_without_it():
    assert load_config(ROOT / "config.example.toml", {}, {}) == Config()


def test_the_example_and_the_page_have_every_key():
    tree, page = tomllib.loads(example()), markdown()
    for name, key in keys().items():
        table = tree
        *parents, field = name.split(".")
        for parent in parents:
            table = table[parent]
        assert field in table
        assert key.variable in page


def test_those_of_a_named_upstream_are_there_too():
    lines, page = example().splitlines(), markdown()
    start = lines.index("# [upstreams.NAME]")
    for name, key in keys(["NAME"]).items():
        if name.startswith("upstreams."):
            assert any(line.startswith(f"# {name.rpartition('.')[2]} = ") for line in lines[start:])
            assert key.variable in page


def test_every_key_is_explained_in_the_code():
    known = {**sections(), **named_sections(["NAME"])}
    explained = {name: comments(section) for name, section in known.items()}
    for key in keys(["NAME"]):
        section, _, field = key.rpartition(".")
        assert explained[section][field].endswith("."), key
