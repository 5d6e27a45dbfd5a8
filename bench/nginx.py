"""nginx as a plain reverse proxy: one worker, no buffering of replies, connections to the upstream kept open.

It logs nothing, so that it is as cheap as it can be. Whole requests are held in memory before they are sent on, as the
pool holds them; by default nginx would put the large ones into a file.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from bench.measure import Place


def command(program: str, folder: Path, port: int, upstream: Place) -> list[str]:
    """The command line of an nginx that listens on `port`; its files are in `folder`."""
    path = folder / "nginx.conf"
    path.write_text(_configuration(folder, port, upstream))
    return [program, "-p", str(folder), "-c", str(path)]


def _configuration(folder: Path, port: int, upstream: Place) -> str:
    user = "user root;" if os.geteuid() == 0 else ""  # else the worker may not write below a folder of root's
    temporary = "\n".join(
        f'{" " * 12}{kind}_temp_path "{folder}/{kind}";'
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return textwrap.dedent(
        f"""\
        {user}
        daemon off;
        worker_processes 1;
        worker_rlimit_nofile 16384;
        pid "{folder}/nginx.pid";
        error_log "{folder}/nginx-errors.log" error;
        events {{
            worker_connections 8192;
        }}
        http {{
            access_log off;
            keepalive_requests 100000000;
            client_max_body_size 64m;
            client_body_buffer_size 1m;
{temporary}
            upstream bench {{
                server {upstream.address}:{upstream.port};
                keepalive 512;
                keepalive_requests 100000000;
            }}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location / {{
                    proxy_pass http://bench;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_buffering off;
                }}
            }}
        }}
        """
    )
