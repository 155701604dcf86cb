"""One round of llama.cpp over its RPC servers: prints {"decode": tokens/s, "prefill": tokens/s}.

    python -m bench.peers.llama_cpp_rpc MODEL.gguf THREADS PREFILL_TOKENS DECODE_TOKENS [SERVERS]

Needs llama-cpp-python built with GGML_RPC=ON (bench/README.md). Every server is a process of its
own on a free port of 127.0.0.1, with the processor as its device and so many threads; llama.cpp
spreads the layers over them by itself. They end with this program.
"""

import contextlib
import ctypes
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp

from bench.peers.llama_cpp_speed import measure

_START_TIMEOUT_S = 20.0
_PROCESSOR = 0


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / f"lib{name}.so"))


def serve(port: int, threads: int) -> None:
    """Be one server until the process is ended."""
    ggml, rpc = _library("ggml"), _library("ggml-rpc")
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    device = ggml.ggml_backend_dev_by_type(_PROCESSOR)
    devices = (ctypes.c_void_p * 1)(device)
    start = rpc.ggml_backend_rpc_start_server
    start.argtypes = [
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_void_p),
    ]
    start(f"127.0.0.1:{port}".encode(), None, threads, 1, devices)


def use(ports: list[int]) -> None:
    """Make the servers devices of this process, before a model is loaded."""
    ggml, rpc = _library("ggml"), _library("ggml-rpc")
    rpc.ggml_backend_rpc_add_server.argtypes = [ctypes.c_char_p]
    rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
    ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
    for port in ports:
        server = rpc.ggml_backend_rpc_add_server(f"127.0.0.1:{port}".encode())
        if not server:
            sys.exit(f"the RPC server on port {port} offers no device")
        ggml.ggml_backend_register(server)


@contextlib.contextmanager
def servers(count: int, threads: int) -> Iterator[list[int]]:
    """Run so many servers meanwhile; their ports."""
    ports = [_free_port() for _ in range(count)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.peers.llama_cpp_rpc", "serve", str(port), str(threads)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    try:
        for port, server in zip(ports, running, strict=True):
            _wait(port, server)
        yield ports
    finally:
        for server in running:
            server.kill()
            server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        if server.poll() is not None or time.monotonic() > deadline_s:
            sys.exit("an RPC server did not start; is llama.cpp built with GGML_RPC=ON?")
        time.sleep(0.05)


def main(model: str, threads: int, prefill: int, decode: int, count: int = 3) -> None:
    """Start the servers, measure, print."""
    if not llama_cpp.llama_supports_rpc():
        sys.exit("this llama-cpp-python has no RPC; bench/README.md says how to build one that has")
    with servers(count, threads) as ports:
        use(ports)
        print(json.dumps(measure(model, threads, prefill, decode, offload=True)))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main(sys.argv[1], *map(int, sys.argv[2:6]))
