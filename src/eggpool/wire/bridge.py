"""stub"""

from __future__ import annotations


def unwrap(arguments: str) -> str:
    return arguments


class Unwrapper:
    def feed(self, piece: str) -> str:
        return piece
