"""Towards the providers: the HTTP client, outbound proxies, model discovery."""
