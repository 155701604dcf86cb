"""One round of llama.cpp, alone in its process: prints {"decode": tokens/s, "prefill": tokens/s}.

    python bench/peers/llama_cpp_speed.py MODEL.gguf THREADS PREFILL_TOKENS DECODE_TOKENS

Needs llama-cpp-python. Calls llama.cpp's own functions, so that no Python is in what is measured
but one call a step.
"""

import json
import sys
import time

import llama_cpp
import numpy as np

WARM_UP = 16


def measure(
    model: str, threads: int, prefill: int, decode: int, *, offload: bool = False
) -> dict[str, float]:
    """Tokens a second; with `offload` on the devices that were registered before."""
    llama = llama_cpp.Llama(
        model,
        n_ctx=prefill + decode + WARM_UP,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        n_gpu_layers=-1 if offload else 0,
        verbose=False,
    )
    context = llama._ctx.ctx  # noqa: SLF001 - the one way to the C handle
    memory = llama_cpp.llama_get_memory(context)
    size = llama.n_vocab()
    tokens = np.random.default_rng(0).integers(100, size - 100, prefill).astype(np.int32)

    def step(some: np.ndarray) -> None:
        values = np.ascontiguousarray(some, np.int32)
        pointer = values.ctypes.data_as(llama_cpp.llama_token_p)
        batch = llama_cpp.llama_batch_get_one(pointer, len(values))
        if llama_cpp.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")

    step(tokens[:WARM_UP])
    llama_cpp.llama_memory_clear(memory, True)
    started = time.perf_counter()
    for at in range(0, prefill, 512):
        step(tokens[at : at + 512])
    llama_cpp.llama_get_logits_ith(context, -1)
    prefill_s = time.perf_counter() - started

    llama_cpp.llama_memory_clear(memory, True)
    step(tokens[:WARM_UP])
    started = time.perf_counter()
    for _ in range(decode):
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        best = np.ctypeslib.as_array(logits, (size,)).argmax()
        step(np.array([best]))
    decode_s = time.perf_counter() - started
    return {"decode": decode / decode_s, "prefill": prefill / prefill_s}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], *map(int, sys.argv[2:5]))))
