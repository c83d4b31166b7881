"""Where metrics disagree about a trial."""

from studyctl.store.comparison import Rank, gaps


def ranked(trial: str, metric: str, rank: int, tied: int = 1, trials: int = 9) -> Rank:
    return Rank(f"m.{trial}", "m", "x", trial, metric, 0.5, rank, tied, trials)


RANKS = [
    ranked("a", "kl_nats_per_byte", 2),
    ranked("a", "task:openbookqa", 9),
    ranked("a", "bits_per_byte_change", 3),
    ranked("b", "kl_nats_per_byte", 4),
    ranked("b", "task:openbookqa", 1),
    ranked("b", "bits_per_byte_change", 4),
    ranked("c", "kl_nats_per_byte", 1),
    ranked("c", "bits_per_byte_change", 2),
]


def described(*metrics: str) -> list[tuple[str, str, str, float]]:
    return [
        (gap.better.variant, gap.better.metric, gap.worse.metric, gap.places) for gap in gaps(RANKS, *metrics)
    ]


def test_the_widest_gap_of_each_trial_the_largest_first() -> None:
    assert described() == [
        ("a", "kl_nats_per_byte", "task:openbookqa", 7),
        ("b", "task:openbookqa", "kl_nats_per_byte", 3),
    ]


def test_gaps_with_one_metric_or_between_two() -> None:
    assert described("bits_per_byte_change") == [
        ("a", "bits_per_byte_change", "task:openbookqa", 6),
        ("b", "task:openbookqa", "bits_per_byte_change", 3),
    ]
    assert described("bits_per_byte_change", "kl_nats_per_byte") == []  # one place apart is no news


def test_a_tie_counts_as_its_middle() -> None:
    flat = [ranked("a", "kl_nats_per_byte", 5), ranked("a", "task:boolq", 1, tied=9)]
    assert gaps(flat) == []
