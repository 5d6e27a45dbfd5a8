"""Bytes and their meaning: request envelopes, event streams, dialects, usage. Pure; knows no accounts."""
