import base64
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.config.settings import Config, DataConfig, SealingConfig, Secret
from proxy.config.values import key_from_text
from proxy.sealing import KEY_FILE, Sealer, Unsealable, create_sealer, is_sealed, read_key

SEALER = Sealer(bytes(32))


def test_what_was_sealed_is_opened_again():
    text = SEALER.seal("job", "alice", b"\0secret\xff")
    assert is_sealed(text)
    assert b"secret" not in base64.urlsafe_b64decode(text.partition("_")[2] + "==")
    assert SEALER.open("job", "alice", text) == b"\0secret\xff"


def test_the_same_data_is_never_sealed_to_the_same_text():
    assert SEALER.seal("job", "alice", b"same") != SEALER.seal("job", "alice", b"same")


@pytest.mark.parametrize(("purpose", "owner"), [("job", "bob"), ("compaction", "alice"), ("joba", "lice")])
def test_another_purpose_or_owner_opens_nothing(purpose, owner):
    text = SEALER.seal("job", "alice", b"secret")
    with pytest.raises(Unsealable):
        SEALER.open(purpose, owner, text)


def test_another_key_opens_nothing():
    with pytest.raises(Unsealable):
        Sealer(b"k" * 32).open("job", "alice", SEALER.seal("job", "alice", b"secret"))


@pytest.mark.parametrize("change", [lambda t: t[:-2], lambda t: t + "AAAA", lambda t: t[:20] + "é" + t[20:], str.lower])
def test_changed_text_opens_nothing(change):
    with pytest.raises(Unsealable):
        SEALER.open("job", "alice", change(SEALER.seal("job", "alice", b"secret and more")))


@pytest.mark.parametrize("text", ["", "gAAAAABforeign", "blseal1_", "blseal1_A", "blseal1_!!!!", "blseal1_AAAA"])
def test_foreign_text_opens_nothing(text):
    with pytest.raises(Unsealable):
        SEALER.open("job", "alice", text)


def test_a_key_is_base64_of_32_bytes_or_any_long_text():
    raw = bytes(range(224, 256))
    assert key_from_text(base64.b64encode(raw).decode()) == raw
    assert key_from_text(base64.urlsafe_b64encode(raw).decode().rstrip("=")) == raw
    assert len(key_from_text("a passphrase of more than 32 characters")) == 32
    with pytest.raises(ValueError, match="32"):
        key_from_text("too short")


def test_replicas_with_the_same_configured_key_open_each_others_text():
    config = Config(sealing=SealingConfig(key=Secret("a passphrase of more than 32 characters")))
    assert create_sealer(config).open("job", "a", create_sealer(config).seal("job", "a", b"x")) == b"x"


def test_a_key_file_is_made_when_something_is_sealed_and_used_again(tmp_path):
    config = Config(data=DataConfig(dir=str(tmp_path / "data")))
    sealer = create_sealer(config)
    assert not (tmp_path / "data").exists()
    text = sealer.seal("job", "alice", b"x")
    assert (tmp_path / "data" / KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert [one.name for one in (tmp_path / "data").iterdir()] == [KEY_FILE]
    assert create_sealer(config).open("job", "alice", text) == b"x"


def test_all_who_need_a_key_at_the_same_time_get_the_same(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: read_key(tmp_path), range(16)))
    assert len(keys) == 1


def test_a_damaged_key_file_is_no_key(tmp_path):
    (tmp_path / KEY_FILE).write_bytes(b"half a key")
    with pytest.raises(OSError, match="damaged"):
        read_key(tmp_path)
