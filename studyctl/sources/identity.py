"""Finding out what models, texts, tasks and token ids are, without loading them: the part of the sources that planning needs.

Nothing from here on imports torch, transformers, datasets or lm_eval.
"""

from studyctl.sources.checkpoints import identify_model
from studyctl.sources.ids_files import identify_ids
from studyctl.sources.published import identify_checkpoint
from studyctl.sources.task_files import identify_task
from studyctl.sources.text_files import identify_text

__all__ = ["identify_checkpoint", "identify_ids", "identify_model", "identify_task", "identify_text"]
