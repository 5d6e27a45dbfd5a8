"""What requests cost, in the units that quota windows count: bounded amounts, and nothing that knows of accounts."""

from __future__ import annotations

import msgspec

from eggpool.domain import QuotaUnit

GENERIC_NANODOLLARS = 3_000  # per token, where no price is known: it only orders, it is never booked
LARGEST = 2**57 - 1  # of an amount in any unit: 144 million dollars, and sums of it still fit 64 bits

Amounts = tuple[int, int, int]
PLACES = {QuotaUnit.MONEY: 0, QuotaUnit.PERCENT: 0, QuotaUnit.TOKENS: 1, QuotaUnit.REQUESTS: 2}
"""Where a unit stands among amounts. Where only a share is known, money is what moves it."""


class Spending(msgspec.Struct, frozen=True, gc=False):
    """What a request costs, in every unit that windows count."""

    nanodollars: int = 0
    tokens: int = 0
    requests: int = 1

    @property
    def amounts(self) -> Amounts:
        """Money, tokens and requests. Where no money is known, tokens at a generic rate stand for it."""
        tokens, requests = self.tokens, self.requests
        money = self.nanodollars or tokens * GENERIC_NANODOLLARS
        if 0 <= (money | tokens | requests) <= LARGEST:  # which is all ones, so it holds for each as for their bits
            return money, tokens, requests
        return _bounded(money), _bounded(tokens), _bounded(requests)


def _bounded(amount: int) -> int:
    return 0 if amount < 0 else LARGEST if amount > LARGEST else amount


NOTHING = Spending(0, 0, 0)
