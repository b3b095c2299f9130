"""Hand the boxes to supervision: how long a hand is in the left half of the picture.

python docs/examples/hands_to_supervision.py kitchen.mp4
"""

import sys

import numpy as np
import supervision as sv

import egolive

seconds, before = 0.0, 0.0
with egolive.load_model("nano") as model:
    for result in model.stream(sys.argv[1], tasks=["hands"]):
        height, width = result.frame.shape[:2]
        zone = sv.PolygonZone(np.array([(0, 0), (width // 2, 0), (width // 2, height), (0, height)]))
        seconds += (result.time - before) * bool(zone.trigger(result.detections()).any())
        before = result.time
print(f"a hand was in the left half for {seconds:.1f} of {before:.1f} s")
