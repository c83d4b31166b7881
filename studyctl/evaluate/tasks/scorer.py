"""lm-eval's scorer for ``transformers`` models, from as few tokens as possible, and resumable."""

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Any, Protocol

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing

from studyctl import __version__
from studyctl.contract.identity import Bos
from studyctl.contract.limits import device_kind
from studyctl.errors import StepError
from studyctl.evaluate.tasks.packed import Answer, open_packed
from studyctl.evaluate.tasks.trees import Prompt
from studyctl.evaluate.text.head import not_finite
from studyctl.evaluate.vocabulary import check_ids
from studyctl.reporter import Reporter

BATCH_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 27}
"""Maximum logits of a plain batch: HFLM has them all at once, in the model's dtype and again in fp32."""
MIN_BATCH_TOKENS = 512
"""Tokens of a plain batch, however large the vocabulary is."""
GENERATION_SEED = 1234
ROLLING_WINDOWS = 256
"""Windows that HFLM requests at a time for tasks of rolling log-likelihood."""
SHOWN_CHARACTERS = 40
"""Of an answer, in an error."""

LIBRARIES = ("torch", "transformers", "lm-eval")
"""Those whose version may change the bits of an answer, beside this one's."""
Encoded = tuple[tuple[str, str], list[int], list[int]]
"""Context and continuation as text, then as ids."""


class ResumableChunks(Protocol):
    """Saved answers to the numbered chunks of an unfinished task. They are JSON values, so that a later process can use them."""

    def begin(self, plan: str) -> dict[int, Any]:
        """Return the answers that an earlier attempt saved under the same plan: a hash of all that determines them."""

    def add(self, chunk: int, answers: Any) -> None:
        """Save the answers of a chunk."""


@dataclass(frozen=True)
class Chunk:
    """Requests that are answered together."""

    requests: list[int]
    """Their numbers."""
    answer: Callable[[], Sequence[Any]]


class Scorer(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """HFLM that reads common beginnings of prompts once, and computes logits only where they are needed.

    Prompts, their split into context and answer, and their truncation are HFLM's own; but an answer that the split leaves without
    a token, since it merges with the end of the context, is encoded alone. Log-likelihoods come from an fp32 log-softmax. A model that cannot read prompts in trees gets plain batches, longest prompts first.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        bos: Bos,
        batch_tokens: int,
        reporter: Reporter,
        resumable: ResumableChunks | None = None,
    ) -> None:
        add_bos = {"auto": None, "none": False, "prepend": True}[bos]
        super().__init__(
            pretrained=model,
            tokenizer=_prepared(tokenizer, bos, reporter),
            batch_size=ROLLING_WINDOWS,
            add_bos_token=add_bos,
            softmax_dtype="float32",
        )
        vocabulary = model.get_output_embeddings().weight.shape[0]
        self._rows = model.get_input_embeddings().weight.shape[0]
        self._batch_tokens = batch_tokens
        most_tokens = BATCH_LOGITS[device_kind(self.device.type)] // vocabulary
        self._plain_tokens = min(batch_tokens, max(most_tokens, MIN_BATCH_TOKENS))
        self._reporter = reporter
        self._resumable = resumable
        self._done = self._total = 0
        self._reported_plain = False

    def run(self, kind: str, requests: Sequence[Instance]) -> list[Any]:
        """Answer requests of one kind (``loglikelihood``, ``generate_until``, ...), in their order."""
        self._done, self._total = 0, len(requests)
        answers: list[Any] = getattr(self, kind)(list(requests), disable_tqdm=True)
        return answers

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Score answers to their contexts."""
        return self._loglikelihood_tokens([self._encoded(request) for request in requests])

    def _encoded(self, request: Instance) -> Encoded:
        """Return a request's tokens.

        Raises:
            StepError: the answer has no token, or the model has no embedding for one.
        """
        context, answer = request.args
        if context:
            context_ids, ids = self._encode_pair(context, answer)
        else:  # a BOS (else EOS) is the context, unless the answer begins with one
            ids = self.tok_encode(answer, add_special_tokens=False)
            context_ids, ids = [self.prefix_token_id], ids[ids[:1] == [self.prefix_token_id] :]
        if not ids:
            raise StepError(f"the answer {answer!r} to {_item(request)} has no tokens")
        check_ids([*context_ids, *ids], self._rows, self.tokenizer, _item(request))
        return (context, answer), context_ids, ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Split as HFLM does, and encode a continuation that it leaves without a token by itself (lm-eval's pull request 4055)."""
        context_ids, ids = super()._encode_pair(context, continuation)
        if not ids:
            moved = context[len(context.rstrip()) :]  # HFLM moves spaces from the end of the context
            ids = self.tok_encode(moved + continuation, add_special_tokens=False)
        return context_ids, ids

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts."""
        for request in requests:
            ids = self.tok_encode(request.args[0])
            if not request.args[0] or not ids:
                raise StepError(f"the text of {_item(request)} has no tokens")
            check_ids(ids, self._rows, self.tokenizer, _item(request))
        sums: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate in batches, longest context first."""
        contexts = [self.tok_encode(request.args[0]) for request in requests]
        for request, context in zip(requests, contexts, strict=True):
            check_ids(context, self._rows, self.tokenizer, _item(request))
        lengths = list(map(len, contexts))
        order = sorted(range(len(requests)), key=lambda i: -lengths[i])
        chunks = []
        while order:
            new_tokens = requests[order[0]].args[1].get("max_gen_toks", self.max_gen_toks)
            rows = max(1, self._plain_tokens // (lengths[order[0]] + new_tokens))
            batch, order = order[:rows], order[rows:]
            chunks.append(Chunk(batch, partial(self._generate, [requests[i] for i in batch], batch[0], rows)))
        prompts = (request.args for request in requests)
        return self._in_chunks("generate", prompts, chunks, [""] * len(requests))

    def _generate(self, requests: list[Instance], first: int, rows: int) -> list[str]:
        self.batch_size_per_gpu = rows
        torch.manual_seed(GENERATION_SEED + first)  # so that earlier batches do not matter
        try:
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        except AssertionError as error:  # more tokens are asked for than the model reads
            raise StepError(
                f"task `{requests[0].task_name}` cannot generate its answers: {error}",
                hint="`max_gen_toks` in the task's `generation_kwargs`",
            ) from error
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        prompts = [_prompt(request, self.max_length) for request in requests]
        self._warn_of(requests)
        scorer = open_packed(self.model, prompts)
        if isinstance(scorer, str):
            if not self._reported_plain:
                self._reported_plain = True
                self._reporter.warning(
                    f"{type(self.model).__name__} cannot read prompts in trees ({scorer}): the task is scored in plain"
                    " batches, which takes longer"
                )
            kind, chunks = "plain", list(self._plain_chunks(requests, prompts))
        else:
            kind = "trees"
            chunks = [
                Chunk(row.prompts.tolist(), partial(scorer.score, row))
                for row in scorer.chunks(prompts, self._batch_tokens)
            ]
        hashed = ((*prompt.tokens, -1, *prompt.targets) for prompt in prompts)
        return self._in_chunks(kind, hashed, chunks, [(0.0, False)] * len(requests))

    def _plain_chunks(self, requests: Sequence[Encoded], prompts: Sequence[Prompt]) -> Iterator[Chunk]:
        """Yield plain batches; requests that share all but their last token share a row, as in HFLM."""
        rows: dict[tuple[int, ...], list[int]] = {}
        for index, prompt in enumerate(prompts):
            rows.setdefault(prompt.tokens, []).append(index)
        order = sorted(rows, key=lambda tokens: (-len(tokens), tokens))
        while order:
            size = max(1, self._plain_tokens // len(order[0]))
            batch, order = order[:size], order[size:]
            numbers = [number for tokens in batch for number in rows[tokens]]
            yield Chunk(numbers, partial(self._score_plain, [requests[i] for i in numbers], size))

    def _score_plain(self, requests: list[Encoded], rows: int) -> list[Answer]:
        self.batch_size_per_gpu = rows
        answers: list[Answer] = super()._loglikelihood_tokens(requests, disable_tqdm=True)
        self.batch_size_per_gpu = ROLLING_WINDOWS
        return answers

    def _in_chunks(
        self, kind: str, prompts: Iterable[Sequence[Any]], chunks: list[Chunk], answers: list[Any]
    ) -> list[Any]:
        """Fill in the answers, chunk by chunk, those that an earlier attempt saved without computing them."""
        libraries = " ".join([f"studyctl {__version__}", *(f"{name} {version(name)}" for name in LIBRARIES)])
        how = f"{kind} {self.model.dtype} {self.max_length} {libraries} threads {torch.get_num_threads()}"
        plan = _fingerprint(how, prompts, [chunk.requests for chunk in chunks])
        saved = self._resumable.begin(plan) if self._resumable is not None else {}
        for number, chunk in enumerate(chunks):
            if number in saved:
                new = [tuple(answer) if isinstance(answer, list) else answer for answer in saved[number]]
            else:
                self._reporter.check_stop()
                new = list(chunk.answer())
                if any(isinstance(answer, tuple) and math.isnan(answer[0]) for answer in new):
                    raise not_finite()
                if self._resumable is not None:
                    self._resumable.add(number, new)
            for request, answer in zip(chunk.requests, new, strict=True):
                answers[request] = answer
            # A rolling request has several windows, so there may be more answers than requests.
            self._done = min(self._done + len(new), self._total)
            self._reporter.progress(self._done, self._total, "request")
        return answers

    def _warn_of(self, requests: Sequence[Encoded]) -> None:
        longer = sum(len(context) + len(target) > self.max_length + 1 for _, context, target in requests)
        if longer:
            self._reporter.warning(
                f"{longer} of {self._total} prompts are longer than the {self.max_length} tokens of the model:"
                " their beginning is cut off"
            )


def _item(request: Instance) -> str:
    return f"item {request.doc_id} of task `{request.task_name}`"


def _prompt(request: Encoded, longest: int) -> Prompt:
    """Return a request's tokens, cut from the left as HFLM cuts them."""
    _, context, continuation = request
    if len(continuation) > longest:
        raise StepError(
            f"the answer {request[0][1].strip()[:SHOWN_CHARACTERS]!r}… has {len(continuation):,} tokens, "
            f"more than the {longest:,} that the model reads"
        )
    tokens = (*context, *continuation)[-(longest + 1) :][:-1]
    if len(tokens) < len(continuation):
        raise StepError(f"there is no token before the answer {request[0][1]!r} to predict it from")
    return Prompt(tokens, tuple(continuation))


def _fingerprint(how: str, prompts: Iterable[Sequence[Any]], chunks: list[list[int]]) -> str:
    """Return the hash of what determines the answers, except weights: prompts, their chunks, libraries and settings."""
    state = hashlib.blake2b(how.encode(), digest_size=16)
    for part in chain(prompts, chunks):
        state.update(json.dumps(part, default=repr).encode())
    return state.hexdigest()


def _prepared(tokenizer: Any, bos: Bos, reporter: Reporter) -> Any:
    """Return a copy of a tokenizer (HFLM changes it) that adds a BOS if ``bos`` says so, and nothing after a text.

    HFLM takes the tokens of a context for the first ones of context and answer together, which they are not if both end in an EOS.
    """
    tokenizer = copy.deepcopy(tokenizer)
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise StepError(
            "the tokenizer has neither a BOS nor an EOS token, and lm-eval needs one to begin a text with",
            hint="name one in tokenizer_config.json, such as `eos_token`",
        )
    if bos == "prepend":
        if tokenizer.bos_token_id is None:
            raise StepError(
                "the tokenizer has no BOS token to prepend",
                hint='set `bos = "none"` or "auto" for this model',
            )
        tokenizer.add_bos_token = True
        if tokenizer.encode("a")[:1] != [tokenizer.bos_token_id]:
            raise StepError(
                f"{type(tokenizer).__name__} cannot be made to prepend its BOS token",
                hint='set `bos = "auto"`',
            )
    bare, added = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    begin = next((at for at in range(len(added)) if added[at : at + len(bare)] == bare), 0)
    if added[begin + len(bare) :]:
        ending = "".join(tokenizer.convert_ids_to_tokens(added[begin + len(bare) :]))
        reporter.warning(f"the tokenizer ends every text in `{ending}`: prompts are scored without it")
        names = tokenizer.convert_ids_to_tokens(added[:begin])
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*names, "$A"], special_tokens=list(zip(names, added, strict=False))
        )
    return tokenizer
