"""Standard errors of task metrics, as lm-eval defines them, without its process pool and its printing."""

from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api import metrics

SAMPLES = 1000
"""Bootstrap samples; lm-eval gives the same figure with ``bootstrap_iters=1000``."""
FEW_SAMPLES = 100
"""For metrics over whole corpora, which are slow; lm-eval's own limit for them."""

_CLOSED_FORMS = {metrics.mean: metrics.mean_stderr, metrics.acc_all: metrics.acc_all_stderr}
_BOOTSTRAPPED = {
    metrics.median: SAMPLES,
    metrics.matthews_corrcoef: SAMPLES,
    metrics.f1_score: SAMPLES,
    metrics.perplexity: SAMPLES,
    metrics.nanmean: SAMPLES,
    metrics.bleu: FEW_SAMPLES,
    metrics.chrf: FEW_SAMPLES,
    metrics.chrfpp: FEW_SAMPLES,
    metrics.ter: FEW_SAMPLES,
}


def standard_error(aggregate: Callable[[Sequence[Any]], float], values: Sequence[Any]) -> float | None:
    """Return the standard error of ``aggregate(values)``, or None if it is not defined.

    Means have a closed form; the bootstrap is seeded, so that the same values give the same error.
    """
    if len(values) < 2:
        return None
    if aggregate in _CLOSED_FORMS:
        return float(_CLOSED_FORMS[aggregate](values))
    if aggregate in _BOOTSTRAPPED:
        resample = metrics._bootstrap_internal(aggregate, _BOOTSTRAPPED[aggregate])
        return float(metrics.sample_stddev(resample((0, values))))
    return None
