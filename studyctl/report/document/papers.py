"""The papers that a report cites, and the paragraph on methods that cites them."""

from collections.abc import Iterable, Iterator
from enum import Enum

from studyctl.report.document.model import Items, Paragraph, Section
from studyctl.report.document.selection import Shown


class Paper(Enum):
    """A paper, with its entry in the list of references."""

    STUDY = (
        "Zihan Zhou, Simon Kurz, Zhixue Zhao. Revisiting Pruning vs Quantization for Small Language Models. "
        "Findings of EMNLP 2025, pages 12055–12070."
    )
    MAGNITUDE = (
        "Song Han, Jeff Pool, John Tran, William J. Dally. Learning both Weights and Connections for Efficient Neural Networks. "
        "NeurIPS 2015."
    )
    WANDA = (
        "Mingjie Sun, Zhuang Liu, Anna Bair, J. Zico Kolter. A Simple and Effective Pruning Approach for Large Language Models. "
        "ICLR 2024."
    )
    SPARSEGPT = "Elias Frantar, Dan Alistarh. SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot. ICML 2023."
    RTN = (
        "Benoit Jacob et al. Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference. "
        "CVPR 2018."
    )
    GPTQ = (
        "Elias Frantar, Saleh Ashkboos, Torsten Hoefler, Dan Alistarh. GPTQ: Accurate Post-Training Quantization for "
        "Generative Pre-trained Transformers. ICLR 2023."
    )
    AWQ = "Ji Lin et al. AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and Acceleration. MLSys 2024."
    GGUF = "Georgi Gerganov et al. llama.cpp. https://github.com/ggml-org/llama.cpp."
    SATTERTHWAITE = (
        "F. E. Satterthwaite. An Approximate Distribution of Estimates of Variance Components. Biometrics Bulletin 2(6), 1946, "
        "pages 110–114."
    )
    MCNEMAR = (
        "Quinn McNemar. Note on the sampling error of the difference between correlated proportions or percentages. "
        "Psychometrika 12(2), 1947, pages 153–157."
    )
    TANGO = (
        "Toshiro Tango. Equivalence test and confidence interval for the difference in proportions for the paired-sample design. "
        "Statistics in Medicine 17(8), 1998, pages 891–908."
    )
    HOLM = (
        "Sture Holm. A Simple Sequentially Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 6(2), 1979, "
        "pages 65–70."
    )


_METHODS = {
    "magnitude": ("magnitude pruning zeroes the smallest weights", Paper.MAGNITUDE),
    "wanda": ("Wanda prunes by weight times the norm of its input, row by row", Paper.WANDA),
    "sparsegpt": (
        "SparseGPT prunes column by column, and later columns make up for the error",
        Paper.SPARSEGPT,
    ),
    "rtn": ("round to nearest (RTN) puts each weight on the closest value of an affine grid", Paper.RTN),
    "gptq": ("GPTQ rounds column by column, and later columns make up for the error", Paper.GPTQ),
    "awq": ("AWQ scales active input channels up before it rounds, and clips", Paper.AWQ),
    "gguf": ("llama.cpp rounds to its own types of blocks", Paper.GGUF),
}


class Citations:
    """Numbers papers in the order in which they are cited."""

    def __init__(self) -> None:
        self._papers: list[Paper] = []

    def cite(self, paper: Paper) -> str:
        """Return the mark of a paper: ``[2]``."""
        if paper not in self._papers:
            self._papers.append(paper)
        return f"[{self._papers.index(paper) + 1}]"

    def references(self) -> tuple[str, ...]:
        """Return the entries in the order of their numbers."""
        return tuple(paper.value for paper in self._papers)


def methods(shown: Shown, compression: Iterable[str], *, with_hypotheses: bool) -> list[Section]:
    """Return how the figures of a study came about, and the references.

    Args:
        shown: what the report shows.
        compression: methods of the study; one that prunes and quantizes has both names, with ``+`` between them.
        with_hypotheses: whether the study has hypotheses.
    """
    citations = Citations()
    paragraphs = [
        *_compression(citations, compression),
        *_measurement(citations, shown),
        *([_testing(citations)] if with_hypotheses else []),
        f"The question of pruning against quantization for small models, and the choice of methods and measures, follow "
        f"{citations.cite(Paper.STUDY)}.",
    ]
    return [
        Section("Methods", tuple(map(Paragraph, paragraphs))),
        Section("References", (Items(citations.references(), numbered=True),)),
    ]


def _compression(citations: Citations, methods: Iterable[str]) -> Iterator[str]:
    used = {name for method in methods for name in method.split("+")}
    described = [
        f"{text} {citations.cite(paper)}" for name, (text, paper) in _METHODS.items() if name in used
    ]
    if described:
        yield (
            "The linears of the decoder blocks were compressed after training, without retraining; norms stayed as they were, and so did embeddings "
            f"and the output layer, except in variants in llama.cpp's types. {_sentence('; '.join(described))}."
        )


def _measurement(citations: Citations, shown: Shown) -> Iterator[str]:
    if shown.languages:
        yield (
            "Each language's text was cut into windows of equal length, and a variant and its dense model scored the same windows. "
            "Losses are compared between languages and models in bits per byte. KL is that of the dense model's next-token "
            "distribution from the variant's. A difference between two losses is paired by window: its interval is Student's t over windows (over "
            "documents, where at least 20 of them have several windows each); a mean over languages takes Satterthwaite's degrees "
            f"of freedom {citations.cite(Paper.SATTERTHWAITE)}."
        )
    if shown.tasks:
        yield (
            "Tasks are those of the Language Model Evaluation Harness (EleutherAI), scored item by item. A change in accuracy is paired by item: "
            f"its interval is Tango's score interval {citations.cite(Paper.TANGO)}, or Student's t over passages where several "
            f"items share one, and its test is McNemar's, exact {citations.cite(Paper.MCNEMAR)}. A mean over tasks is the mean of "
            "their changes."
        )
    yield (
        "All intervals are 95 % intervals. They are about other windows and items of the same texts and tasks, unless a line says "
        "that they are about other languages or models."
    )


def _testing(citations: Citations) -> str:
    return (
        "A hypothesis compares two sides of variants, left and right; variants of one side are averaged first. Intervals over languages or models "
        "are Student's t over their means; over both, crossed, with Satterthwaite's degrees of freedom "
        f"{citations.cite(Paper.SATTERTHWAITE)}. p is adjusted within each family of hypotheses by Holm's procedure "
        f"{citations.cite(Paper.HOLM)}, and a verdict needs an adjusted p below 5 %. A hypothesis is confirmatory if it was recorded "
        "before every result that its verdict uses, else exploratory."
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
