"""Loading in one line, for the tests of the configuration."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from eggpool.config.load import Loaded, load
from eggpool.errors import ConfigError

ENVIRON = {"HOME": "/home/someone"}


def loaded(text: str, environ: Mapping[str, str] | None = None, **options: object) -> Loaded:
    """What a text means in /etc/eggpool, with a home folder and these variables."""
    return load(text, {**ENVIRON, **(environ or {})}, folder="/etc/eggpool", **options)  # type: ignore[arg-type]


def problems(text: str, environ: Mapping[str, str] | None = None, **options: object) -> list[str]:
    """The lines with which a text is refused."""
    with pytest.raises(ConfigError) as caught:
        loaded(text, environ, **options)
    return list(caught.value.problems)


def provider(extra: str = "", account: str = 'api_key = "sk-0123456789"') -> str:
    """A file with the provider `p` that has the account `a`."""
    return (
        '[providers.p]\nid = "p"\nbase_url = "https://p.example/api"\n'
        f'{extra}\n[[providers.p.accounts]]\nname = "a"\n{account}\n'
    )
