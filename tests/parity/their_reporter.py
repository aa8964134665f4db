"""Train in our Trainer with one callback of transformers.integrations: the program of test_their_reporters.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import integrations

import loopwright
from tests.parity.tiny import build


def main(name: str, out: Path) -> None:
    """Train, and leave what was logged in `out`/history.json."""
    if name == "SwanLabCallback":  # it asks for the present run, which has to be there with the SDK that is installed
        import swanlab

        swanlab.init()
    callback = getattr(integrations, name)()
    trainer = build(loopwright, out, callbacks=[callback], run_name="theirs", disable_tqdm=True)
    trainer.train()
    (out / "history.json").write_text(json.dumps(trainer.state.log_history))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
