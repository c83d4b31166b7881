"""Peak memory of compressing a model of 3.8 B in shape against what the plan foretells: Phi-3.5-mini's configuration, 4 blocks."""

from benchmarks.timing import print_table
from tests.compress.peak import measure

CONFIG = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
METHODS = ({"method": "gptq"}, {"method": "awq", "ratios": 2})
"""AWQ with few candidates: more take minutes, and no memory."""
SAMPLES, TOKENS = 8, 2048
GOAL = 0.25
BESIDE_GOAL = 1.2


def main() -> None:
    rows = []
    for settings in METHODS:
        found = measure(
            {
                "model_type": "phi3",
                "config": CONFIG,
                "settings": settings,
                "samples": SAMPLES,
                "tokens": TOKENS,
                "threads": 1,
            }
        )
        for label, name in (("process", "peak"), ("beside the model", "working")):
            foretold, measured = found[f"{name}_foretold"], found[name]
            cells = (f"{foretold / (1 << 20):.0f} MiB", f"{measured / (1 << 20):.0f} MiB")
            ratio = f"{foretold / measured:.2f} ×"
            rows.append((f"{settings['method']}, {label}", *cells, ratio, f"{found['seconds']:.0f} s"))
    print_table(("peak memory", "foretold", "measured", "foretold / measured", "took"), rows)
    print(
        f"bfloat16, {SAMPLES} × {TOKENS} tokens, one thread; goals: the estimate within {GOAL:.0%}, "
        f"and beside the model no more than {BESIDE_GOAL:g} times what was foretold"
    )
