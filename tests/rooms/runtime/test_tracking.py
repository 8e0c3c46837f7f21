"""Jobs that begin together share one new database."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import sys
from pathlib import Path
from boltzray.runtime.tracking import Tracker
Path(sys.argv[1]).mkdir()
print(Tracker.open("sample", Path(sys.argv[1]), {"seed": 1}).run_id)
"""


def test_jobs_may_make_the_database_together(root: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"BOLTZRAY_HOME": str(tmp_path), "PYTHONPATH": str(root)}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(tmp_path / name)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    ends = [(*job.communicate(), job.returncode) for job in jobs]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert len({out for out, _, _ in ends}) == 2
