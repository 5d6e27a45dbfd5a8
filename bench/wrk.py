"""Drives wrk, where that is installed: the cheapest way to keep many connections busy."""

from __future__ import annotations

import json
from pathlib import Path

from bench import load
from bench.proxies import KEY

_SCRIPT = """
local names = {%s}
local ready = {}
local at = 0
function init(args)
  for index, name in ipairs(names) do
    local file = io.open(name, "rb")
    local body = file:read("*a")
    file:close()
    local headers = {["authorization"] = "Bearer %s", ["content-type"] = "application/json"}
    ready[index] = wrk.format("POST", "/v1/chat/completions", headers, body)
  end
end
function request()
  at = at %% #ready + 1
  return ready[at]
end
function done(summary, latency, requests)
  local failed = summary.errors
  io.stdout:write(string.format('\\n{"completed": %%d, "failed": %%d}\\n', summary.requests - failed.status,
    failed.status + failed.connect + failed.read + failed.write + failed.timeout))
end
"""


def command(program: str, folder: Path, port: int, kind: str, connections: int, seconds: float) -> list[str]:
    """The command line that keeps `connections` busy for whole `seconds`; its last line is `completed` and `failed`."""
    script = folder / f"{kind}.lua"
    if not script.exists():
        names = []
        for number, body in enumerate(load.prepared(kind)):
            path = folder / f"{kind}-{number}.json"
            path.write_bytes(body)
            names.append(json.dumps(str(path)))
        script.write_text(_SCRIPT % (", ".join(names), KEY))
    whole = f"{max(1, round(seconds))}s"
    return [
        program, "--threads", "1", "--connections", str(connections), "--duration", whole, "--timeout", "30s",
        "--script", str(script), f"http://127.0.0.1:{port}/v1/chat/completions",
    ]  # fmt: skip
