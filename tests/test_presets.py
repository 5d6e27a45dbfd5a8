"""The bundled catalogue of providers."""

from __future__ import annotations

import tomllib
from importlib import resources

import pytest

from eggpool import presets
from eggpool.config.edit import add_account
from eggpool.config.load import load
from eggpool.config.schema import Provider
from eggpool.errors import ConfigError

TEXT = (resources.files("eggpool") / "data" / "providers.toml").read_text(encoding="utf-8")
CATALOGUE = presets.read(TEXT)


def provider_of(preset: presets.Preset) -> Provider:
    """What `connect` makes of a preset, loaded."""
    account = {"name": "a"} if preset.api_key_env is None else {"name": "a", "api_key_env": preset.api_key_env}
    text = add_account("", preset.table(preset.base_url or "https://given.example/v1"), account)
    environ = {preset.api_key_env or "UNUSED": "sk-0123456789"}
    loaded = load(text, environ, folder="/")
    assert loaded.warnings == ()
    return loaded.config.providers[preset.id]


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_preset_gives_a_provider_that_loads(name: str) -> None:
    """Whatever the catalogue offers can be written into a configuration and loaded without a word."""
    preset = CATALOGUE[name]
    provider = provider_of(preset)
    assert provider.id == name
    assert provider.protocols == preset.protocols
    assert (provider.auth.mode == "none") == (preset.api_key_env is None)


def test_the_ids_of_old_catalogues_are_there() -> None:
    """A configuration or a habit of the reference system finds its provider under the same name and address."""
    known = {
        "opencode-go": "https://opencode.ai/zen/go/v1",
        "minimax": "https://api.minimax.io/v1",
        "minimax-cn": "https://api.minimaxi.com/v1",
        "generalcompute": "https://api.generalcompute.com/v1",
        "zai": "https://api.z.ai/api/paas/v4",
        "neuralwatt": "https://api.neuralwatt.com/v1",
        "openrouter": "https://openrouter.ai/api/v1",
        "ollama-local": "http://localhost:11434/v1",
        "ollama-cloud": "https://ollama.com/v1",
        "openai": "https://api.openai.com/v1",
        "anthropic": "https://api.anthropic.com/v1",
        "groq": "https://api.groq.com/openai/v1",
        "deepinfra": "https://api.deepinfra.com/v1/openai",
        "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
        "xai": "https://api.x.ai/v1",
        "mistral": "https://api.mistral.ai/v1",
        "siliconflow": "https://api.siliconflow.cn/v1",
        "cerebras": "https://api.cerebras.ai/v1",
        "sambanova": "https://api.sambanova.ai/v1",
        "hyperbolic": "https://api.hyperbolic.xyz/v1",
        "featherless": "https://api.featherless.ai/v1",
        "moonshot": "https://api.moonshot.ai/v1",
        "deepseek": "https://api.deepseek.com",
        "together": "https://api.together.ai/v1",
        "fireworks": "https://api.fireworks.ai/inference/v1",
        "alibaba": "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "novita": "https://api.novita.ai/openai",
    }
    assert {name: CATALOGUE[name].base_url for name in known} == known


def test_peculiar_providers_keep_what_is_peculiar() -> None:
    """Anthropic needs its header and version, General Compute a POST, and neither is lost on the way."""
    anthropic = provider_of(CATALOGUE["anthropic"])
    assert (anthropic.auth.mode, anthropic.auth.header) == ("api_key", "x-api-key")
    assert [(header.name, header.value.reveal()) for header in anthropic.headers if header.value] == [
        ("anthropic-version", "2023-06-01")
    ]
    general = provider_of(CATALOGUE["generalcompute"])
    assert (general.models_method, general.models_path) == ("POST", "/models/list")


@pytest.mark.parametrize("text", ["[x]\nname = 'x'", "x = [", TEXT.replace("bearer", "x") + "\n[y]\nstatus = 'great'"])
def test_a_broken_catalogue_is_refused(text: str) -> None:
    """ConfigError is the only way to fail."""
    with pytest.raises(ConfigError, match="catalogue"):
        presets.read(text)


def test_a_table_holds_what_differs_from_the_defaults_only() -> None:
    """What is written into a person's file is short."""
    assert CATALOGUE["openai"].table() == {
        "id": "openai",
        "base_url": "https://api.openai.com/v1",
        "protocols": ["openai", "responses"],
        "routing_priority": 0,
    }
    assert set(tomllib.loads(TEXT)) == set(CATALOGUE)
