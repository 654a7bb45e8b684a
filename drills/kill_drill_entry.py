"""``shufflenet-fn`` as ``kill_drill.py`` runs it: it can be stopped at an operation on checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from drills.kills.points import CONTROL, arm
from shufflenet_fn_cli.main import main

# A rank's process imports this file under the second name.
if __name__ in ("__main__", "__mp_main__"):
    arm(Path(os.environ[CONTROL]))
if __name__ == "__main__":
    main()
