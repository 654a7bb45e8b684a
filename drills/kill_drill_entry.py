"""``shufflenet-fn`` as ``kill_drill.py`` runs it: what is done to checkpoints can be stopped at a point."""

from __future__ import annotations

import os
from pathlib import Path

from drills.kills.points import CONTROL, arm
from shufflenet_fn_cli.main import main

# The second is the name under which a rank's process imports this file.
if __name__ in ("__main__", "__mp_main__"):
    arm(Path(os.environ[CONTROL]))
if __name__ == "__main__":
    main()
