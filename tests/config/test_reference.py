"""The documents that follow from the schema."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.config.reading import loaded, problems

from eggpool.config import reference
from eggpool.config.dotenv import parse_dotenv
from eggpool.config.keys import keys_of
from eggpool.config.schema import Config, Section


def sections(section: type[Section] = Config) -> Iterator[type[Section]]:
    """The section and all inside it."""
    yield section
    for key in keys_of(section).values():
        if key.section is not None:
            yield from sections(key.section)


def test_every_key_has_help() -> None:
    """No key goes without a sentence."""
    for section in sections():
        assert section.__doc__
        for key in keys_of(section).values():
            assert key.help.endswith("."), f"{section.__name__}.{key.name}"


def test_every_key_is_on_the_reference_page() -> None:
    """Each section has its table, each key its row there."""
    page = reference.reference_page()
    for section in sections():
        if section is Config:
            continue
        chapter = next(part for part in page.split("\n## ") if (section.__doc__ or "").strip() in part)
        rows = set(re.findall(r"^\| `(\w+)` \|", chapter, re.MULTILINE))
        assert rows == set(keys_of(section))


def test_the_example_works_once_its_variable_is_set() -> None:
    """A newcomer sets one variable and is done."""
    example = reference.config_example()
    result = loaded(example, {reference.EXAMPLE_VARIABLE: "sk-0123456789"})
    assert result.warnings == ()
    assert [account.label for account in result.config.providers["opencode-go"].accounts] == ["opencode-go/first"]
    assert result.config.server == Config().server
    assert problems(example) == [
        "providers.opencode-go.accounts[0].api_key_env: "
        f"the environment variable {reference.EXAMPLE_VARIABLE} is not set"
    ]


def test_each_commented_key_of_the_example_is_valid() -> None:
    """Removing the first two characters of a line gives a key that is known, with a value that it takes."""
    text, _, _ = reference.config_example().partition("# A second account")
    exclusive = "api_key|proxy|proxy_url|proxy_url_env"  # of these an account takes one, or the file has no table yet
    text = re.sub(rf"^# (?=(?!({exclusive}) =)\w+ = )", "", text, flags=re.MULTILINE)
    config = loaded(text, {reference.EXAMPLE_VARIABLE: "sk-0123456789"}).config
    assert config.server.tls_cert is not None
    assert config.providers["opencode-go"].accounts[0].max_concurrency == 4
    assert config.upstream == Config().upstream


def test_the_example_environment_is_refused_until_it_is_filled_in() -> None:
    """Its placeholder is known as one."""
    variables = parse_dotenv(reference.env_example())
    assert list(variables) == [reference.EXAMPLE_VARIABLE]
    (found,) = problems(reference.config_example(), variables)
    assert "is a placeholder" in found
