from typing import Any

import msgspec
import pytest

from proxy.config.settings import Config, JwtConfig, Secret


def test_a_secret_is_its_text_and_never_shows_it():
    config = Config(auth=msgspec.structs.replace(Config().auth, jwt=JwtConfig(secret=Secret("hunter2"))))
    assert config.auth.jwt.secret == "hunter2"
    assert "hunter2" not in repr(config)
    assert repr(Secret("")) == "Secret('')"


def test_the_configuration_can_not_be_changed():
    config: Any = Config()
    with pytest.raises(AttributeError, match="immutable"):
        config.server.port = 1
