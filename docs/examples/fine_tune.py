"""Train nano further on rows of your own; here the rows come from two simulated episodes.

python docs/examples/fine_tune.py work 20
"""

import subprocess
import sys
from pathlib import Path

import yaml

work, steps = Path(sys.argv[1]), int(sys.argv[2])
egolive = [sys.executable, "-m", "egolive"]
subprocess.run([*egolive, "simulate", work / "episodes", "--episodes", "2", "--fps", "2"], check=True)
subprocess.run([*egolive, "rows", "simulator", work / "episodes", work / "rows.jsonl"], check=True)
recipe = {"base": "nano", "rows": [f"{work}/rows.jsonl"], "media": f"{work}/episodes", "out": f"{work}/run"}
recipe |= {"rates": {"text": 1e-4}, "batch": 4, "steps": steps}
(work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
subprocess.run([*egolive, "train", "sft", work / "recipe.yaml"], check=True)
