"""The verdict of a hypothesis as a sentence."""

from studyctl.report.layout import change, ratio
from studyctl.store.results import HypothesisResult

RATIOS = ("kl_ratio", "ppl_ratio")
"""Metrics whose estimate is a ratio left / right; of the others it is a difference, of an order of variants Kendall's tau."""


def is_ratio(metric: str) -> bool:
    """Return whether no difference is 1, and not 0."""
    return metric in RATIOS


def figure(metric: str, value: float | None) -> str:
    """Return an estimate, or an end of its interval, as text."""
    return (ratio(value) if is_ratio(metric) else change(value)).plain


def interval_text(metric: str, low: float | None, high: float | None) -> str:
    """Return an interval in brackets; nothing if it has no ends."""
    return "" if low is None or high is None else f"[{figure(metric, low)}, {figure(metric, high)}]"


def p_text(p: float | None) -> str:
    """Return a p with two digits, a small one as a power of ten."""
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def sentence(result: HypothesisResult) -> str:
    """Return a verdict with the figures that it rests on."""
    metric = "order of variants by " + result.metric if "," in result.metric else result.metric
    parts = []
    if result.estimate is not None:
        interval = interval_text(result.metric, result.low, result.high)
        parts.append(f"{metric} {figure(result.metric, result.estimate)} {interval}".rstrip())
    if result.p_adjusted is not None:
        parts.append(f"p = {p_text(result.p_adjusted)} after Holm".replace("= <", "<"))
    if result.models and result.models_holding is not None:
        parts.append(f"holds in {result.models_holding} of {result.models} models")
    if result.reason:
        parts.append(result.reason)
    if result.confirmatory is not None:
        parts.append("confirmatory" if result.confirmatory else "exploratory")
    figures = f" ({'; '.join(parts)})" if parts else ""
    return f"{result.name}: {result.verdict}{figures}. {result.claim}".rstrip()
