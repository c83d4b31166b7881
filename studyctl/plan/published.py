"""Published checkpoints of a spec: looked up, and held against the model that they are compared with."""

from collections.abc import Iterator

from studyctl.contract.identity import ModelIdentity
from studyctl.contract.methods import Checkpoint
from studyctl.errors import Problem, ProblemCode
from studyctl.plan.checks import check_sequence_length
from studyctl.plan.variants import Variant
from studyctl.sources.checkpoints import storage_caveats
from studyctl.spec.loading import Document
from studyctl.spec.models import Model
from studyctl.spec.positions import Loc


def checkpoint_place(document: Document, variant: Variant, settings: Checkpoint) -> Loc:
    """Return where in the spec the checkpoint is named, also within a list of several."""
    _, index = variant.loc
    ids: tuple[str, ...] = getattr(document.spec.compression[int(index)], "id")  # noqa: B009 - of one kind of table
    return (*variant.loc, "id", ids.index(settings.id))


def check_checkpoint(
    document: Document, loc: Loc, found: ModelIdentity, model: Model, base: ModelIdentity | None
) -> Iterator[Problem]:
    """Yield what stands against measuring a checkpoint beside its model, and what the figures will leave out.

    Args:
        document: the spec.
        loc: where the checkpoint is named.
        found: what it is.
        model: that it is compared with.
        base: what that is; None where it has problems of its own.
    """
    if found.key is None:
        what = f"could not look up checkpoint `{found.id}`: {found.unknown}"
        yield document.problem(what, loc, severity="warning", code=ProblemCode.NOT_LOOKED_UP)
        return
    if base is not None and base.key is not None and found.vocab_size != base.vocab_size:
        # Perplexity only needs the same tokens; KL, top-1 and SNR compare logit by logit.
        compared = document.spec.evaluation.fidelity is not None
        yield document.problem(
            f"`{found.id}` has a vocabulary of {found.vocab_size:,}, `{model.id}` one of {base.vocab_size:,}",
            loc,
            hint="fidelity compares logit by logit: leave out [evaluation.fidelity], or this checkpoint"
            if compared
            else "their perplexities can be compared only if the tokens are the same; a run checks that",
            severity="error" if compared else "warning",
        )
    if (perplexity := document.spec.evaluation.perplexity) is not None:
        named = Model(id=found.id)
        yield from check_sequence_length(document, loc, perplexity.sequence_length, named, found)
    if not found.tokenizer:
        what = f"`{found.id}` has no tokenizer: that of `{model.id}` is used"
        yield document.problem(what, loc, severity="warning")
    for caveat in storage_caveats(found.config):
        yield document.problem(f"`{found.id}`: {caveat}", loc, severity="warning")
