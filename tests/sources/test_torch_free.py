"""Planning must not wait for torch: checked in a fresh interpreter, which also sees imports inside functions."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.sources.conftest import CONFIG
from tests.sources.test_gguf_files import write_gguf

HEAVY = ("torch", "transformers", "datasets", "lm_eval", "gguf")
PROGRAM = f"""
import sys
from pathlib import Path
from studyctl.contract.methods import Checkpoint
from studyctl.sources.checkpoints import identify_checkpoint
from studyctl.sources.gguf.files import differences
from studyctl.sources.ids_files import identify_ids
from studyctl.sources.model_files import identify_model
from studyctl.sources.task_files import identify_task
from studyctl.sources.text_files import identify_text
from studyctl.sources.dtypes import resolve_dtype
from studyctl.spec.models import Model, Tasks, TextSource
base = Path(sys.argv[1])
resolve_dtype("auto", "cpu")
identify_model(Model(id="models/tiny"), base)
identify_model(Model(id="org/on-the-hub"), base)
identify_checkpoint(Checkpoint(id="./models/packed", of="m"), base)
checkpoint = identify_checkpoint(Checkpoint(id="./models/tiny.gguf", of="models/tiny"), base)
assert list(differences(checkpoint, identify_model(Model(id="models/tiny"), base))) == []
identify_text("pocket", None, "perplexity", "en", base)
identify_text("c4", TextSource(dataset="org/text"), "perplexity", "en", base)
tasks = Tasks(names=("arc_easy",), include=("pocket",))
identify_task("arc_easy", tasks, base)
print(*[name for name in {HEAVY} if name in sys.modules])
"""


def test_identities_are_found_without_heavy_imports(folder: Path) -> None:
    # A format whose package is looked for, and not imported: compressed-tensors imports torch.
    packed = {"quant_method": "compressed-tensors", "quantization_status": "compressed"}
    shutil.copytree(folder, folder.with_name("packed"))
    (folder.with_name("packed") / "config.json").write_text(
        json.dumps(CONFIG | {"quantization_config": packed})
    )
    write_gguf(folder.with_name("tiny.gguf"))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder.parents[1])], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
