"""nginx as a reverse proxy: what a gateway in C adds."""

from __future__ import annotations

import shutil
import subprocess

from benchmarks.gateway.answers import MODEL
from benchmarks.gateway.peers._base import PeerAbsentError, PeerPlace, RunningPeer
from benchmarks.gateway.processes import ManagedProcess, free_port

_CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  upstream echo {{ server 127.0.0.1:{upstream_port}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://echo;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


class Nginx:
    """proxy_pass with kept-alive connections, without buffering, one worker."""

    name = "nginx"
    description = "nginx, proxy_pass with kept-alive connections, one worker"

    def start(self, place: PeerPlace) -> RunningPeer:
        """Start it."""
        program = shutil.which("nginx")
        if program is None:
            raise PeerAbsentError("nginx is not installed (apt-get install nginx-light)")
        port = free_port()
        configuration = place.folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(folder=place.folder, port=port, upstream_port=place.upstream_port), encoding="utf-8"
        )
        process = ManagedProcess(
            [program, "-e", str(place.folder / "error.log"), "-p", str(place.folder), "-c", str(configuration)],
            log=place.folder / "log.txt",
            core=place.core,
        )
        process.wait_ready(f"http://127.0.0.1:{port}/v1/models")
        said = subprocess.run([program, "-v"], capture_output=True, text=True, check=False).stderr  # noqa: S603
        return RunningPeer(port=port, model=MODEL, process=process, version=said.strip().rpartition("/")[2])
