"""Started by torchrun itself, as people do: also again, after a process was killed."""

import json
import os
import subprocess
import sys

from tests.distributed.launching import ROOT, free_port, returned
from tests.distributed.trainings import train

PROGRAM = """
import json, os, sys
from tests.distributed.trainings import RANK, train

output_dir, options = sys.argv[1:]
is_first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
callbacks = [["Dies", 5, 1, "kill"]] if is_first_life else []
found = train(output_dir, options, json.dumps(callbacks), "auto")
with open(f"{output_dir}/found-{RANK}.json", "w") as file:
    json.dump(found, file)
"""


def test_training_goes_on_where_torchrun_starts_it_again(tmp_path):
    options = json.dumps({"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 4})
    whole = returned(train, 2, tmp_path, tmp_path / "whole", options)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = ["--nproc-per-node=2", "--max-restarts=1", f"--master-port={free_port()}", str(program)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command, str(tmp_path / "again"), options],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    for rank, one in enumerate(whole):
        found = json.loads((tmp_path / "again" / f"found-{rank}.json").read_text())
        assert found["weights"] == one["weights"]
        assert found["history"] == one["history"]
