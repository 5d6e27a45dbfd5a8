"""`GET /v1/models`: the pool's own list, in the shape that the caller's dialect has for it."""

from __future__ import annotations

from msgspec.structs import replace

from eggpool.domain import Dialect, ModelCard
from eggpool.engine.pool import Pool
from eggpool.errors import NotFound
from eggpool.routing.catalog import with_claude_names
from eggpool.web.replies import Headers, dialect_of
from eggpool.wire.dialects import CODECS

PATH = "/v1/models"


class ModelsApi:
    """The list and its entries."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def read(self, path: str, headers: Headers) -> dict[str, object]:
        """The list, or the entry that a path names. Raises NotFound for one that is not there."""
        models = self._pool.config.models
        resting = self._pool.resting if models.expose_mode == "healthy_union" else frozenset()
        cards = self._pool.catalog.cards(mode=models.expose_mode, collapse=models.collapse_models, resting=resting)
        dialect = dialect_of(PATH, headers)
        if models.claude_aliases and dialect is Dialect.MESSAGES:
            cards = with_claude_names(cards)
        codec = CODECS[dialect]
        wanted = path.removeprefix(PATH).strip("/")
        if not wanted:
            return codec.models_page([self._with_error(card) for card in cards])
        card = next((card for card in cards if card.id == wanted), None)
        if card is None:
            # The other form of a name (with or without its provider) may be asked for as well as requested.
            both = self._pool.catalog.cards(mode="union", collapse=not models.collapse_models, resting=frozenset())
            card = next((card for card in both if card.id == wanted), None)
        if card is None:
            raise NotFound(
                f"The model {wanted[:200]} is not served by any account.", param="model", code="model_not_found"
            )
        return codec.model_entry(self._with_error(card))

    def _with_error(self, card: ModelCard) -> ModelCard:
        """A card with how well the pool counts tokens for its model."""
        return replace(card, token_estimate_error=self._pool.calibration.error(card.base_model))


def is_models(path: str) -> bool:
    """Whether a path belongs to the list."""
    return path == PATH or path.startswith(PATH + "/")
