"""Asks llama.cpp what the slices and the tokeniser must agree with, and writes it as JSON.

Run it where llama-cpp-python is installed:

    python tests/coordinator/data/make_llama_cpp_expectations.py MODEL.gguf

Kept of each prompt and its greedy continuation: the tokens; and after every token the logits at a
fixed set of places spread over the vocabulary, the best token and how far it leads the second. Of
each hard text: its tokens.
"""

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "Water boils at 100 degrees Celsius because",
    "1, 2, 3, 5, 8, 13,",
    "<|im_start|>user\nWhat is MQTT?<|im_end|>\n<|im_start|>assistant\n",
    "La mer est",
    "The three laws of thermodynamics are:\n1.",
    '{"name": "Ada", "age": 36, "city": "',
    "In 1969, Neil Armstrong and Buzz Aldrin landed on the Moon. The mission was called",
]
TEXTS = [
    "",
    " ",
    "  ",
    "   leading and trailing   ",
    "\n",
    "\n\n\n",
    "\t\tif x:\n\t\t\treturn y\r\n",
    "a\u00a0b\u2003c\u3000d",
    "Hello, World!",
    "it's we've they'd I'm you'll DON'T",
    "12345 3.14159 1,000,000 0x1F4A9",
    "naïve café Ærøskøbing Straße",
    "Ελληνικά Русский العربية עברית",
    "日本語のテキスト 中文字符 한국어",
    "👍🏽 👩‍👩‍👧‍👦 🇫🇷 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "e\u0301 cafe\u0301 \u200b\u200d\ufeff",
    "x" * 100,
    "!!!???...---___***",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 2; } // done",
    '<a href="https://example.org/?q=1&r=2">link</a>',
    "<|im_start|>system\nYou<|im_end|>",
    "<|im_start|",
    "<s></s><unk>",
    "\u0000\u0001\u001b[31m",
    "Zalgo: H̸̡̪̯ͨ͊̽̅̾̎",
    "mixed\u2028line\u2029breaks\x0b\x0c\x85",
    "²³¹ ½ Ⅷ ①",
    "snake_case CamelCase kebab-case SCREAMING_CASE",
]
SAMPLED = 64
GREEDY = 24


def main(model: str) -> None:
    llama = llama_cpp.Llama(model, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    size = llama.n_vocab()
    sampled = np.linspace(0, size - 1, SAMPLED).astype(int).tolist()

    def logits() -> np.ndarray:
        pointer = llama_cpp.llama_get_logits_ith(llama._ctx.ctx, -1)
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (size,))

    prompts = []
    for prompt in PROMPTS:
        tokens = llama.tokenize(prompt.encode(), add_bos=False, special=True)
        llama.reset()
        followed = list(tokens)
        positions = []
        for at in range(len(tokens) + GREEDY):
            llama.eval([followed[at]])
            now = logits()
            second, first = np.sort(now)[-2:]
            positions.append(
                {
                    "best": int(now.argmax()),
                    "lead": round(float(first - second), 4),
                    "logits": [round(float(now[place]), 3) for place in sampled],
                }
            )
            if at + 1 == len(followed):
                followed.append(int(now.argmax()))
        prompts.append(
            {
                "prompt": prompt,
                "tokens": tokens,
                "greedy": followed[len(tokens) : -1],
                "positions": positions,
            }
        )
    texts = [
        {
            "text": text,
            "plain": llama.tokenize(text.encode(), add_bos=False, special=False),
            "special": llama.tokenize(text.encode(), add_bos=False, special=True),
        }
        for text in TEXTS
    ]
    expectations = {
        "model": Path(model).name,
        "llama_cpp_python": llama_cpp.__version__,
        "sampled": sampled,
        "prompts": prompts,
        "texts": texts,
    }
    path = Path(__file__).with_name("smollm2_llama_cpp.json")
    path.write_text(json.dumps(expectations, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
