"""lm-eval's own scorer for ``transformers`` models, in batches of a token budget, telling how far it is."""

import copy
from collections.abc import Sequence
from typing import Any, Literal

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from studyctl.errors import StageError
from studyctl.evaluate.batching import scored_tokens
from studyctl.reporter import Reporter

ROLLING_WINDOWS = 256
"""Windows that HFLM hands over at a time for tasks of rolling log-likelihood."""

Bos = Literal["auto", "none", "prepend"]
Encoded = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, then as ids."""


class Scorer(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """HFLM with batches by tokens, longest first, and without progress bars.

    Requests that share all but their last token share a row, as in HFLM. Log-likelihoods come from an fp32 log-softmax.
    """

    def __init__(self, model: Any, tokenizer: Any, bos: Bos, batch_tokens: int, reporter: Reporter) -> None:
        add_bos = {"auto": None, "none": False, "prepend": True}[bos]
        super().__init__(
            pretrained=model,
            tokenizer=_prepared(tokenizer, bos),
            batch_size=ROLLING_WINDOWS,
            add_bos_token=add_bos,
            softmax_dtype="float32",
        )
        vocabulary = model.get_output_embeddings().weight.shape[0]
        self._batch_tokens = scored_tokens(vocabulary, self.device.type, batch_tokens)
        self._reporter = reporter
        self._done = self._total = 0

    def run(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Answer requests of one kind (``loglikelihood``, ``generate_until``, ...), in their order."""
        self._done, self._total = 0, len(requests)
        answers: list[Any] = getattr(self, kind)(list(requests), disable_tqdm=True)
        return answers

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate in batches, longest context first."""
        lengths = [len(self.tok_encode(request.args[0])) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: -lengths[i])
        answers = [""] * len(requests)
        while order:
            room = requests[order[0]].args[1].get("max_gen_toks", self.max_gen_toks)
            rows = max(1, self._batch_tokens // (lengths[order[0]] + room))
            taken, order = order[:rows], order[rows:]
            self._reporter.check_stop()
            self.batch_size_per_gpu = rows
            texts = super().generate_until([requests[i] for i in taken], disable_tqdm=True)
            for index, text in zip(taken, texts, strict=True):
                answers[index] = text
            self._advance(len(taken))
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        self._warn_of_cut(
            [request for request in requests if len(request[1]) + len(request[2]) > self.max_length + 1]
        )
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, (_, context, continuation) in enumerate(requests):
            rows.setdefault(tuple(context + continuation[:-1]), []).append(index)
        order = sorted(rows, key=lambda tokens: (-len(tokens), tokens))
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        while order:
            size = max(1, self._batch_tokens // min(len(order[0]), self.max_length))
            taken, order = order[:size], order[size:]
            indices = [index for tokens in taken for index in rows[tokens]]
            self._reporter.check_stop()
            self.batch_size_per_gpu = size
            scored = super()._loglikelihood_tokens([requests[i] for i in indices], disable_tqdm=True)
            for index, answer in zip(indices, scored, strict=True):
                answers[index] = answer
            self._advance(len(indices))
        self.batch_size_per_gpu = ROLLING_WINDOWS
        return answers

    def _advance(self, requests: int) -> None:
        # A rolling request is several windows; the bar stays at its end for those that are left.
        self._done = min(self._done + requests, self._total)
        self._reporter.progress(self._done, self._total, "request")

    def _warn_of_cut(self, cut: Sequence[Encoded]) -> None:
        if cut:
            self._reporter.warning(
                f"{len(cut)} of {self._total} prompts are longer than the {self.max_length} tokens of the model:"
                " their beginning is cut off"
            )


def _prepared(tokenizer: Any, bos: Bos) -> Any:
    """Return a copy of a tokenizer, as HFLM changes it, that adds a BOS if that is asked for."""
    tokenizer = copy.deepcopy(tokenizer)
    if bos == "prepend":
        if tokenizer.bos_token_id is None:
            raise StageError(
                "the tokenizer has no BOS token to prepend",
                hint='set `bos = "none"` or "auto" for this model',
            )
        tokenizer.add_bos_token = True
        if tokenizer.encode("a")[:1] != [tokenizer.bos_token_id]:
            raise StageError(
                f"{type(tokenizer).__name__} cannot be made to prepend its BOS token",
                hint='set `bos = "auto"`',
            )
    return tokenizer
