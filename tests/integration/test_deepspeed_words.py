"""The keys that the planner knows of DeepSpeed's config are those of the installed release."""

import json
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from launcher.planner.deepspeed.vocabulary import PASSED, REFUSED, REMOVED

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

ASK = """
import json
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from deepspeed.runtime.zero import offload_config as offload

read = set()

class Watched(dict):
    def get(self, key, default=None):
        read.add(key)
        return super().get(key, default)

    def __contains__(self, key):
        read.add(key)
        return super().__contains__(key)

    def keys(self):
        return self

    def __copy__(self):
        return Watched(self)

DeepSpeedConfig(Watched(train_batch_size=1))

def names(model):
    return [n for name, f in model.model_fields.items() for n in (name, f.alias) if n]

print(json.dumps({
    "": sorted(read),
    "bf16": names(DeepSpeedBF16Config),
    "fp16": names(DeepSpeedFP16Config),
    "zero_optimization": names(DeepSpeedZeroConfig),
    "zero_optimization.offload_param": names(offload.DeepSpeedZeroOffloadParamConfig),
    "zero_optimization.offload_optimizer": names(offload.DeepSpeedZeroOffloadOptimizerConfig),
}))
"""


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    """By section, the keys that DeepSpeed reads."""
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


NOT_READ_IN_A_PLAIN_CONFIG = {"sequence_parallel_size", "scheduler", "optimizer"}


@pytest.mark.parametrize(
    "section",
    [
        "",
        "bf16",
        "fp16",
        "zero_optimization",
        "zero_optimization.offload_param",
        "zero_optimization.offload_optimizer",
    ],
)
def test_no_key_is_unknown_to_either(installed: dict[str, Any], section: str) -> None:
    path = tuple(section.split(".")) if section else ()
    refused = {str(key[-1]) for key in (*REFUSED, *REMOVED) if key[:-1] == path}
    removed = {str(key[-1]) for key in REMOVED if key[:-1] == path}
    known = PASSED[path] | refused
    theirs = set(installed[section]) | removed
    assert known - theirs <= NOT_READ_IN_A_PLAIN_CONFIG
    assert theirs - known == set()
